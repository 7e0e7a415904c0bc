"""Wrong method expressions: names, brackets, parameters, values and compositions that there are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import get_type_hints

from tests.fuzz.inputs import Wrong, wrong

MALFORMED = (
    "", " ", ",", "[]", "[", "]", "fastv[", "fastv]", "fastv[]]", "fastv[[]", "fastv[layer]", "fastv[layer=]", "fastv[=2]",
    "fastv[layer=2", "fastv layer=2]", "fastv(layer=2)", "fastv{layer=2}", "fastv[layer:2]", "fastv[layer=2;]", "fastv[layer==2]",
    "fastv[layer=2][layer=3]", "fastv[layer=2]x", "xfastv[layer=2]", "fastv[layer=2,layer=2,=]", "FASTV", "FastV", "fast v",
    "fast-v", "fastv\n;", "fastv\x00", "2fastv", "_fastv", "fastv.", "fastv/", "../fastv", "/fastv", "methods.fastv", "fastv;ls",
    "$(ls)", "`ls`", "<script>", "fastv'", 'fastv"', "fаstv", "faſtv", "ｆastv", "fastv\u202e", "💥", "all", "none,none]",
    "a" * 5000,
    "fastv[" * 500, "]" * 500, "fastv[layer=" + "9" * 5000 + "]", "fastv[" + "a=1," * 3000 + "]", "+", "++", "fastv+", "+fastv",
    "sts[=]", "sts[,]x", "fastv[layer=2,]]", "random[like=]", "random[like=[]]", "random[like=fastv",
    "random[like=fastv[layer=]]",
)  # fmt: skip
NO_SENSE = (
    "fastv+divprune", "fastv+fastv", "divprune+divprune", "divprune+fastv+fastv", "none+fastv", "tome+tome", "fastv+none",
    "divprune+nothing", "nothing+fastv", "blind+fastv", "downsample+downsample", "random[like=random]", "random[like=nothing]",
    "random[like=random[like=fastv]]", "random[like=fastv[layer=x]]", "divprune++fastv]", "oracle+oracle",
    "random[like=" * 400 + "fastv" + "]" * 400, "+".join(["divprune"] * 300), "divprune+random[like=random]",
    "random[like=blind]", "random[like=random[like=random[like=sts]]]", "divprune+fastv[layer=x]",
)  # fmt: skip
MISSPELT = (
    "fastvv", "fsatv", "sparsvlm", "sparse_vlm", "tom", "tome2", "stss", "randon", "rnd", "nonee", "divprun", "cdprunr",
    "visonzip",
    "prumerg", "pyramid", "pyramiddropp", "holo", "otprun", "vt", "gird", "pol", "fp", "downsampl", "orcle", "dartt", "blnd",
)  # fmt: skip


def bad_values(hint: object) -> tuple[str, ...]:
    """Texts that are no value of a parameter."""
    text = str(hint)
    if "int" in text and "float" not in text:
        return ("x", "1.5", "nan", "-7", "1e3", "", "99999999999999999999999999", "0x2")
    if "float" in text:
        return ("x", "nan", "inf", "-inf", "-7", "1e999", "1,5]")
    if "bool" in text:
        return ("yes", "2", "x", "none")
    return ("no-such-choice", "\x00", "9")


def expressions() -> Iterator[Wrong]:
    """Method expressions on a model's figures, and some on files."""
    from methods.registry import entries

    line = "flops --shape llava-1.5-7b --keep 64 --method"
    for text in (*MALFORMED, *NO_SENSE, *MISSPELT):
        yield wrong(line, text)
    for name, entry in entries().items():
        yield wrong(line, f"{name}[no_such_parameter=1]")
        hints = get_type_hints(entry.factory)
        for one in fields(entry.factory):
            for value in bad_values(hints[one.name]):
                yield wrong(line, f"{name}[{one.name}={value}]")
    for text in (*MALFORMED[:30], *MISSPELT[:10], *NO_SENSE[:8]):
        yield wrong("select", text, "good.npz", "--keep", "4", "--out", "o")
    for text in ("fastvv", "sts,nothing", "fastv[layer=x]", ",", "", "sts,fastv[", "divprune+fastv+vtw,sts"):
        yield wrong("compare --methods", text)
        yield wrong("profile --model tiny --methods", text)
