"""Images of any depth and with transparency, against what numpy, Pillow and the formats' own rules say of their pixels."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from harness.errors import RequestError
from harness.tasks.base import ImageSample
from harness.tasks.pictures import Picture
from tests.tasks.conftest import RED, row
from tests.tasks.test_files import samples

GREYS = np.array([[0, 60, 127], [128, 200, 255]], np.uint8)


def opened(content: bytes) -> np.ndarray:
    """What a task makes of an image file."""
    return np.asarray(Picture(content, "file")())


def written(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int, clear: bytes | None = None) -> bytes:
    """A PNG by the letter of its specification: what Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    lines = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", clear) if clear else b"") + lines + chunk(b"IEND", b"")


@pytest.mark.parametrize("factor", [256, 257], ids=["shifted", "replicated"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_the_8_bits_that_they_were_made_of(kind, factor):
    deep = GREYS.astype(np.uint16) * factor
    content = written(Image.fromarray(deep), kind) if kind != "PPM" else b"P5 3 2 65535\n" + deep.astype(">u2").tobytes()
    expected = np.repeat(GREYS[..., None], 3, 2)
    np.testing.assert_array_equal(opened(content), expected)
    np.testing.assert_array_equal(opened(written(Image.fromarray(GREYS), "PNG")), expected)


def test_16_bits_a_colour_and_with_alpha():
    """By the rule of libpng: the high byte."""
    colours = np.array([[0x1234, 0x80FF, 0xFFFF], [0, 0x7F01, 0x0100]], ">u2")
    np.testing.assert_array_equal(opened(png(16, 2, [colours.tobytes()], 2))[0], colours.astype(int) >> 8)
    np.testing.assert_array_equal(
        opened(png(16, 2, [colours.tobytes()], 2, colours[0].tobytes()))[0], [[255, 255, 255], colours[1].astype(int) >> 8]
    )
    grey = np.array([0x1234, 0x80FF], ">u2").tobytes()
    np.testing.assert_array_equal(opened(png(16, 0, [grey], 2, grey[:2]))[0, :, 0], [255, 0x80])
    clear = np.array([0x1234, 0, 0x80FF, 0xFFFF], ">u2").tobytes()
    np.testing.assert_array_equal(opened(png(16, 4, [clear], 2))[0, :, 0], [255, 0x80])


@pytest.mark.parametrize(("depth", "line", "key", "expected"), [
    (1, 0b10000000, 1, [255, 0]), (1, 0b01000000, 0, [255, 255]), (2, 0b01100000, 1, [255, 170]), (4, 0x1A, 1, [255, 170]),
])  # fmt: skip
def test_a_transparent_grey_of_few_bits(depth, line, key, expected):
    np.testing.assert_array_equal(opened(png(depth, 0, [bytes([line])], 2, struct.pack(">H", key)))[0, :, 0], expected)


def test_what_is_transparent_is_laid_onto_white():
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (9, 7, 4)).astype(np.uint8)
    alpha = values[..., 3:].astype(float) / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    for kind in ("PNG", "WEBP", "TIFF"):
        found = opened(written(Image.fromarray(values), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
        assert np.abs(found - expected).max() <= 1.0, kind
    grey = Image.fromarray(np.dstack([values[..., 0], values[..., 3]]), "LA")
    assert np.abs(opened(written(grey, "PNG")) - (values[..., :1] * alpha + 255 * (1 - alpha))).max() <= 1.0


def test_palettes_and_inks():
    paint = Image.new("P", (2, 1))
    paint.putpalette([250, 0, 0, 0, 0, 0])
    paint.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(opened(written(paint, kind, transparency=1))[0], [[250, 0, 0], [255, 255, 255]])
        np.testing.assert_array_equal(opened(written(paint, kind))[0], [[250, 0, 0], [0, 0, 0]])
    inks = opened(written(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(inks.astype(int) - [255, 0, 0]).max() <= 3
    np.testing.assert_array_equal(opened(written(Image.new("1", (2, 1), 1), "PNG")), np.full((1, 2, 3), 255))


def test_a_turned_tiff_of_16_bits_stands_upright():
    deep = np.array([[10, 20, 30]], np.uint16) * 256
    found = opened(written(Image.fromarray(deep), "TIFF", tiffinfo={274: 6}))
    np.testing.assert_array_equal(found[..., 0], [[10], [20], [30]])


def test_an_rgb_image_is_byte_for_byte_what_pillow_reads():
    values = np.random.default_rng(1).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        content = written(Image.fromarray(values), kind)
        np.testing.assert_array_equal(opened(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize(("mode", "what"), [("F", "floating-point"), ("I", "32-bit integers")])
def test_numbers_without_a_range_are_refused(mode, what):
    with pytest.raises(RequestError, match=f"file: its pixels are .*{what}"):
        opened(written(Image.new(mode, (4, 4)), "TIFF"))
    with pytest.raises(RequestError, match="image 'x': its pixels are"):
        _ = ImageSample("x", Image.new(mode, (4, 4)), ()).images


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_several_pictures_in_a_file_are_refused(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    with pytest.raises(RequestError, match="holds 3 pictures"):
        opened(written(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert opened(written(frames[0], kind)).shape == (8, 8, 3)
    previews = written(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert opened(previews)[0, 0].tolist() == opened(written(frames[0], "JPEG"))[0, 0].tolist(), "a camera's JPEG"


def test_a_task_in_python_may_give_images_of_any_mode():
    sample = ImageSample("x", (Image.new("RGBA", (2, 2)), lambda: Image.new("L", (2, 2), 7)), ())
    clear, grey = sample.images
    assert clear.getpixel((0, 0)) == (255, 255, 255) and grey.getpixel((0, 0)) == (7, 7, 7) and sample.count == 2
    plain = Image.new("RGB", (2, 2))
    assert ImageSample("x", plain, ()).image is plain


def test_base64_is_read_in_every_file(jsonl, tmp_path, parquet):
    held = base64.b64encode(RED).decode()
    file = jsonl([row()])
    for text in (held, f"data:image/png;base64,{held}", "\n".join((held[:60], held[60:]))):
        file.write_text(json.dumps(row(text)))
        (sample,) = samples(file)
        np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(Image.open(io.BytesIO(RED))))
    (sample,) = samples(parquet(tmp_path / "d.parquet", [row(held)]))
    assert sample.image.getpixel((0, 0)) == (255, 0, 0)
