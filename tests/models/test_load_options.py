"""What can be named when a model is loaded: a chat template, a companion, and the pixels of its images."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.models import hf
from harness.models.catalogue import TINY
from harness.models.chat_template import choose_template, read_template
from harness.models.load_options import LoadOptions
from harness.models.picture_size import PictureSize, picture_size
from harness.run.capture import capture
from harness.run.comparison import compare
from harness.run.config import CompareConfig, read_file
from harness.run.manifest import command
from tests.models.test_loading import one_line
from tests.models.tiny_families import FAMILIES, make, picture
from tests.needs import need

OWN = (TINY / "chat_template.jinja").read_text()
COLOUR = "what color is the dot ?"


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model, without some of its files."""

    def made(*without: str, name: str = "m"):
        shutil.copytree(TINY, tmp_path / name)
        for part in without:
            path = tmp_path / name / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return tmp_path / name

    return made


@pytest.fixture
def template(tmp_path):
    def written(text: str, name: str = "t.jinja") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


# chat templates


def test_a_checkpoint_without_a_chat_template_is_told_what_to_do(folder, tmp_path):
    made = str(folder("chat_template.jinja"))
    for run in (
        lambda: compare(model=made, samples=1, out=tmp_path / "run"),
        lambda: capture(made, "shapes", 1, tmp_path / "cases"),
    ):
        one_line(run, made, "has no chat template", "--chat-template FILE")
    assert not (tmp_path / "run").exists() and not (tmp_path / "cases").exists()


def asked_with(adapter, file: str):
    """The model with another chat template, checked."""
    other = copy.copy(adapter)
    other.processor = copy.copy(adapter.processor)
    other.template_source = choose_template(other.processor, file)
    other.check_template()
    return other


def test_a_chat_template_from_a_file_takes_the_place_of_the_checkpoints(adapter, folder, template):
    made = hf.load(str(folder("chat_template.jinja")), options=LoadOptions(chat_template=template(OWN)))
    assert made.prompt(COLOUR) == adapter.prompt(COLOUR)
    other = asked_with(adapter, template(OWN.replace(" USER:", " ASSISTANT:")))
    assert other.prompt(COLOUR)[0] != adapter.prompt(COLOUR)[0] and other.prompt(COLOUR)[1] == adapter.prompt(COLOUR)[1]


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("t.json", OWN), ("t", {"default": OWN}),
        ("tokenizer_config.json", [{"name": "x", "template": "-"}, {"name": "default", "template": OWN}]),
    ],
)  # fmt: skip
def test_a_chat_template_may_stand_in_json(template, name, held):
    assert read_template(Path(template(json.dumps({"chat_template": held}), name))) == OWN


def test_where_a_checkpoint_may_keep_its_chat_template(adapter, folder, capsys):
    """In a file of its own, in an older one of JSON, or with its tokenizer, which was made for texts and may not fit."""
    older = folder("chat_template.jinja", name="older")
    (older / "chat_template.json").write_text(json.dumps({"chat_template": OWN}))
    with_tokenizer = folder("chat_template.jinja", name="tokenizer")
    facts = json.loads((with_tokenizer / "tokenizer_config.json").read_text())
    (with_tokenizer / "tokenizer_config.json").write_text(json.dumps(facts | {"chat_template": OWN}))
    for made in (older, with_tokenizer):
        found = hf.load(str(made))
        found.check_template()
        assert found.prompt(COLOUR) == adapter.prompt(COLOUR)
    assert f"note: model {str(with_tokenizer)!r} has no chat template of its own" in capsys.readouterr().err
    for_texts = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (with_tokenizer / "tokenizer_config.json").write_text(json.dumps(facts | {"chat_template": for_texts}))
    one_line(
        hf.load(str(with_tokenizer)).check_template, "its tokenizer's chat template", "0 marks of an image", "--chat-template"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\n{% for m in messages %}\n{{ m.content ", "line 3: cannot write"),
        ("one\n\n{{ nothing.at.all }}", "line 3: cannot write a question about an image ('nothing' is undefined)"),
        ("{{ raise_exception('no system') }}", "line 1: cannot write a question about an image (no system)"),
        (OWN.replace("<image>", ""), "puts 0 marks of an image into a question about an image; the mark of an image is '<i"),
        (OWN.replace("<image>", "<image><image>"), "puts 2 marks of an image"),
        ("<image>" + OWN.replace("<image>", ""), "puts 1 marks of an image into a question without an image"),
        (OWN.replace("part['text']", "''"), "leaves out the text of a question about an image"),
        (" \n", "holds no template"),
        ('{"chat_template": 3}', "holds no \"chat_template\" that is a text"),
    ],
)  # fmt: skip
def test_a_chat_template_that_cannot_be_used_is_one_line_with_its_file_and_line(adapter, template, text, said):
    file = template(text)
    one_line(lambda: asked_with(adapter, file), f"--chat-template {file}", said)


def test_a_named_chat_template_is_checked_while_the_model_is_loaded(template):
    file = template(OWN.replace("<image>", ""))
    one_line(lambda: hf.load("tiny", options=LoadOptions(chat_template=file)), f"--chat-template {file}: puts 0 marks")


def test_a_chat_template_that_cannot_be_read_is_one_line(template, tmp_path):
    broken = template('{"chat_template": "a"', "t.json")
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    for path, said in (
        (tmp_path / "none", "No such file"), (tmp_path, "is a folder"), (broken, "line 1: is not JSON"),
        (tmp_path / "bytes", "byte 3 is not UTF-8"), ("/dev/zero", "is no regular file"),
    ):  # fmt: skip
        one_line(lambda: hf.load("tiny", options=LoadOptions(chat_template=str(path))), f"--chat-template {path}", said)


# companions


def changed(file, change):
    save_file(change(load_file(file)), file, {"format": "pt"})


WRONG = {
    "no projection": (lambda made: (made / "visual_projection.safetensors").unlink(), "it has no visual_projection.safetensors"),
    "another key": (
        lambda made: changed(made / "visual_projection.safetensors", lambda held: {"weight": held["visual_projection.weight"]}),
        "lacks visual_projection.weight; it holds weight",
    ),
    "another tower": (
        lambda made: changed(made / "visual_projection.safetensors", lambda held: {k: w[:, 1:].clone() for k, w in held.items()}),
        "takes states of width 127, the tower gives 128",
    ),
    "another space": (
        lambda made: changed(made / "visual_projection.safetensors", lambda held: {k: w[1:].clone() for k, w in held.items()}),
        "63 x 128; its text encoder asks for 64",
    ),
    "no file": (lambda made: (made / "visual_projection.safetensors").write_bytes(b"no"), "cannot be read"),
    "cut short": (lambda made: os.truncate(made / "model.safetensors", 2000), "its weights cannot be read"),
    "a text layer": (
        lambda made: changed(made / "model.safetensors", lambda held: {k: w for k, w in held.items() if "layers.1." not in k}),
        "is not whole: 16 weights are missing (text_model.encoder.layers.1.layer_norm1.bias",
    ),
    "no configuration": (lambda made: (made / "config.json").unlink(), "config.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_companion_that_is_not_whole_or_does_not_fit_is_refused(folder, case):
    """Beside a model, and where it is named."""
    made = folder()
    spoil, said = WRONG[case]
    spoil(made / "companion")
    one_line(lambda: hf.load(str(made)), f"model {str(made)!r}, companion/", said)
    (made / "companion").rename(made / "other")
    one_line(
        lambda: hf.load(str(made), options=LoadOptions(companion=str(made / "other"))), f"--companion {made / 'other'}", said
    )


def test_a_named_companion_takes_part(adapter, folder, tmp_path):
    """A text encoder with its projection, or a whole CLIP of the same tower, with the tokenizer that lies beside it."""
    alone = str(folder("companion"))
    assert hf.load(alone).companion is None
    named = hf.load(alone, options=LoadOptions(companion=str(TINY / "companion")))
    assert named.companion.digest == adapter.companion.digest and "image_embeds" in named.gives
    tiny = adapter
    text, tower = tiny.companion.text.config, tiny.config.vision_config
    torch.manual_seed(0)
    clip = transformers.CLIPModel(transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=tower.to_dict(), projection_dim=text.projection_dim,
    ))  # fmt: skip
    clip.save_pretrained(tmp_path / "clip")
    tiny.tokenizer.save_pretrained(tmp_path / "clip")
    whole = hf.load(alone, options=LoadOptions(companion=str(tmp_path / "clip")))
    assert torch.equal(whole.companion.visual_projection.weight, clip.visual_projection.weight)
    embeds = whole.companion.text_embeds(COLOUR)
    inputs = tiny.tokenizer(COLOUR, return_tensors="pt")
    expected = clip.get_text_features(**inputs)
    torch.testing.assert_close(embeds, getattr(expected, "pooler_output", expected))


def test_what_is_no_companion_is_named(tmp_path):
    one_line(
        lambda: hf.load("tiny", options=LoadOptions(companion="nowhere")), "--companion nowhere: is neither a folder nor a hub id"
    )
    one_line(lambda: hf.load("tiny", options=LoadOptions(companion=str(TINY))), "is a 'llava'; a companion is a CLIP")


# pixels


@pytest.mark.parametrize("name", FAMILIES)
def test_fewer_pixels_are_those_of_the_familys_own_processor(name):
    """A family that bounds pixels by itself is asked to; for the others the processor sees an image that Pillow has shrunk."""
    if name in ("mistral3", "llava-pixtral"):
        need("torchvision")  # their processor is of no use without
    family = make(name)
    image, bound = picture(90, 61, 3), 1_000
    try:
        if name.startswith("qwen"):
            family.adapter.picture_size = picture_size(LoadOptions(max_pixels=bound), family.adapter.processor, name)
            own = transformers.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=16 * 16, max_pixels=bound)
            expected = own([image], return_tensors="pt")
            rows, columns = expected["image_grid_thw"][0, 1:].tolist()
            assert rows * columns * 64 <= bound
        else:
            family.adapter.picture_size = picture_size(LoadOptions(max_pixels=bound), family.adapter.processor, name)
            small = image.resize((26, 38), Image.Resampling.BICUBIC)
            assert 26 * 38 <= bound < 27 * 39 and family.adapter.picture_size.bring(image).tobytes() == small.tobytes()
            expected = family.inputs(COLOUR, [small])
        pixels = family.adapter.prompt_pixels([[image]])
        assert torch.equal(pixels.tensors[0], expected["pixel_values"].reshape(pixels.tensors[0].shape))
        assert family.adapter.prompt_spans([image.size]) == pixels.spans[0]
        assert pixels.counts[0] <= make_span(name, image).count
    finally:
        restore(family)


@pytest.mark.parametrize("name", ["llava-next", "qwen2.5-vl", "internvl", "smolvlm"])
def test_images_of_one_size_have_one_count_of_tokens(name):
    family = make(name)
    images = [picture(90, 61, 3), picture(20, 40, 4), picture(64, 64, 5)]
    try:
        family.adapter.picture_size = PictureSize((48, 64))
        fixed = family.adapter.prompt_pixels([[image] for image in images])
        assert len(set(fixed.counts)) == 1
        resized = [image.resize((48, 64), Image.Resampling.BICUBIC) for image in images]
        family.adapter.picture_size = PictureSize()
        for mine, theirs in zip(fixed.tensors, family.adapter.prompt_pixels([[image] for image in resized]).tensors, strict=True):
            assert torch.equal(mine, theirs)
    finally:
        restore(family)


def make_span(name: str, image):
    """What the image puts into the prompt as it is."""
    family = make(name)
    restore(family)
    return family.adapter.prompt_pixels([[image]]).spans[0][0]


def restore(family) -> None:
    family.adapter.picture_size = PictureSize()
    family.adapter._spans_of_sizes.clear()
    if family.name.startswith("qwen"):
        images = family.adapter.processor.image_processor
        images.size = type(images.size)(shortest_edge=16 * 16, longest_edge=64 * 64)


@pytest.mark.parametrize(
    ("asked", "size", "expected"),
    [
        (PictureSize(100), (200, 100), (100, 50)), (PictureSize(100), (30, 60), (50, 100)),
        (PictureSize(100), (5000, 1), (100, 1)), (PictureSize(most=3), (2, 900), (1, 3)),
        (PictureSize((7, 9)), (200, 100), (7, 9)), (PictureSize(most=5000), (100, 50), (100, 50)),
        (PictureSize(most=4999), (100, 50), (99, 49)), (PictureSize(most=64), (10_000, 1), (64, 1)),
        (PictureSize(most=64), (1, 10_000), (1, 64)), (PictureSize(most=100), (3000, 2), (100, 1)),
    ],
)  # fmt: skip
def test_what_an_image_is_brought_to(asked, size, expected):
    image = Image.new("RGB", size)
    brought = asked.bring(image)
    assert brought.size == expected and (brought is image) == (size == expected)
    assert asked.most is None or brought.width * brought.height <= asked.most


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_pixels": 63}, "--max-pixels 63: must be 64 to 1,000,000,000"), ({"max_pixels": -1}, "--max-pixels -1"),
        ({"image_size": "0"}, "--image-size '0'"), ({"image_size": "ax3"}, "--image-size 'ax3'"),
        ({"image_size": "640*480"}, "such as 640x480"), ({"image_size": "70000"}, "1 to 65,536 pixels"),
        ({"image_size": "64", "max_pixels": 99}, "leave one of them away"), ({"chat_template": " "}, "--chat-template ' '"),
    ],
)  # fmt: skip
def test_options_out_of_bounds_are_one_line(options, said):
    one_line(lambda: CompareConfig(**options).checked(), said)
    one_line(lambda: hf.load("tiny", options=LoadOptions(**options)), said)


def test_a_bound_below_one_visual_token_is_refused():
    family = make("qwen2.5-vl")
    one_line(
        lambda: picture_size(LoadOptions(max_pixels=255), family.adapter.processor, "m"),
        "one visual token of 'm' covers 256 pixels",
    )


# requests


def test_all_are_part_of_a_run(template, tmp_path, capsys):
    """Of its command, its manifest and its page; another template, companion or size is another run."""
    options = tmp_path / "options.toml"
    file, companion = template(OWN.replace(" USER:", " ASSISTANT:")), str(TINY / "companion")
    options.write_text(f'chat-template = "{file}"\ncompanion = "{companion}"\nimage-size = 200\n')
    assert read_file(options) == {"chat_template": file, "companion": companion, "image_size": "200"}
    common = {"samples": 1, "methods": "none", "keep": "64", "latency": False, "analyse": 0, "seeds": 1, "out": tmp_path / "run"}
    run = compare(**common, **read_file(options))
    manifest, page = run.store.manifest(), run.report.read_text(encoding="utf-8")
    given = f"--chat-template {file} --companion {companion} --image-size 200"
    assert given in manifest["command"] and given in command(CompareConfig(**read_file(options)))
    assert manifest["fingerprints"]["chat_template"] and manifest["fingerprints"]["companion"]
    for text in (file, companion, "image_size", manifest["fingerprints"]["chat_template"]):
        assert text in page
    again = {**common, **read_file(options), "resume": True}
    assert compare(**again).folder == run.folder
    for name, value in (("image_size", 201), ("image_size", (200, 100)), ("companion", None)):
        one_line(lambda: compare(**{**again, name: value}), "its run had another configuration")
    (run.folder / "summary.json").unlink()
    template(OWN)
    one_line(lambda: compare(**again), "its run had another chat template of 'tiny'")
