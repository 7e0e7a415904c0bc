"""Wrong command lines: commands, options, values and combinations that there are not."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.inputs import Wrong, wrong

COMMANDS = ("compare", "report", "explain", "select", "capture", "profile", "flops", "list", "doctor", "regress", "samples")
WHOLE = {
    "compare": ("samples", "seed", "batch-size", "analyse", "seeds", "max-new-tokens", "quantize", "workers", "rounds"),
    "select divprune good.npz --out o --keep 4": ("keep", "seed"),
    "capture --out o": ("samples", "layer", "seed"),
    "profile --model llava-1.5-7b --random-weights": ("layers", "batch-size", "text-tokens", "rounds", "seed"),
    "samples run": ("keep", "limit"),
}
"""Options that take whole numbers, by the line before them."""
NO_NUMBER = ("", "many", "1.5", "1e3", "0x10", "--", "NaN", "1,2", "٣.٠", "1 2")
TOO_SMALL = {
    "compare": ("samples", "batch-size", "seeds", "max-new-tokens", "workers", "rounds"), "capture --out o": ("samples",),
}  # fmt: skip
ENDS = {
    "leaves": "import sys\nsys.exit(3)", "raises": "raise KeyError('x')", "lacks": "import methods\nmethods.nothing",
    "grammar": "def (:", "loops": "import loops\nloops.nothing", "empty": "", "deep": "raise RecursionError",
    "selects": "from methods import register\n@register('selects')\ndef selects(signals, keep):\n    raise SystemExit(3)",
    "tasks": "from harness.tasks.registry import register\n@register('selects')\nclass A:\n info = property(lambda a: a.x)",
}  # fmt: skip
"""Plug-ins, by how they end."""


def command_lines() -> Iterator[Wrong]:
    """Lines that name what there is not, or leave out what must be there."""
    for word in ("", "compair", "COMPARE", "run", "--version-of", "-x", "compare\n", "\x00", "../compare", "compare;ls"):
        yield wrong("", word)
    for command in COMMANDS:
        yield wrong(command, "--no-such-option")
        yield wrong(command, "--jsn")
        yield wrong(command, "--json=maybe")
    for command in ("report", "explain", "select", "capture", "profile", "flops", "list", "regress", "samples"):
        yield wrong(command)
    for line in (
        "doctor now", "list methods models", "explain run run", "samples run run", "compare sts fastv", "capture out",
        "regress run", "regress run run run", "regress run run --against HEAD:run", "flops llava-1.5-7b", "profile tiny",
        "select divprune", "select divprune good.npz", "select divprune good.npz --keep 4", "select divprune --keep 4 --out o",
        "list", "list methodz", "list METHODS", "list method", "list tasks,models", "compare --methods", "compare --sharing",
        "compare --sharing maybe", "compare --sharing ON", "compare --budget mean", "compare --budget AVERAGE",
        "compare --dtype float64", "compare --dtype int8", "compare --quantize 5", "compare --quantize -4",
        "compare --device tpu", "compare --device cuda:99", "compare --device cuda:x", "compare --device :", "compare --margin 0",
        "compare --margin 1", "compare --margin nan", "compare --margin inf", "compare --margin -0.1", "compare --margin wide",
        "compare --prompt hello", "compare --prompt {}", "compare --prompt {question", "compare --revision main",
        "compare --resume --extend run", "compare --extend run", "compare --extend nowhere --methods sts",
        "compare --extend run --methods sts --samples 3", "compare --extend run --methods sts --seed 1", "compare --out run",
        "compare --out run --resume", "compare --plugin no_such_module", "compare --plugin harness.cli.app", "compare --plugin .",
        "compare --plugin ..x", "compare --plugin a/b.py", "compare --plugin json", "list methods --plugin no.such",
        "flops --shape llava-1.5-7b --method sts --keep 64 --plugin no_such", "compare --config nowhere.toml",
        "compare --config images", "compare --out good.npz", "compare --out good.npz/run --methods random",
        "capture --out good.npz", "capture --out o --model nowhere", "capture --out o --task nothing",
        "capture --out o --layer 0", "capture --out o --layer 99", "capture --out o --layer -1", "capture --out o --device tpu",
        "profile --model llava-1.5-70b --random-weights", "profile --model llava-1.5-7b --layers 2",
        "profile --model smolvlm2 --random-weights --layers 0", "profile --model smolvlm2 --random-weights --layers 999",
        "profile --model tiny --rounds 0", "profile --model tiny --batch-size 0", "profile --model tiny --text-tokens 1",
        "profile --model tiny --dtype half", "profile --model tiny --device tpu", "profile --model nowhere",
        "report nowhere", "report images", "report good.npz", "report run nowhere", "explain nowhere", "explain good.npz",
        "samples nowhere", "samples good.npz", "samples run --jsonl --csv", "samples run --limit 0", "samples run --limit -3",
        "samples run --method fastvv", "samples run --method FASTV", "samples run --keep 65", "samples run --family none-such",
        "samples run --method none --keep 64", "samples run --method blind --keep 1", "regress run nowhere",
        "regress nowhere run", "regress run good.npz", "regress good.npz run", "regress HEAD:nowhere run",
        "regress nosuchref:run run", "regress : run", "regress :run run", "regress -x:run run", "regress run: run",
        "regress --upload-pack=x:run run", "regress run run --thresholds nowhere.toml", "regress run run --thresholds images",
        "regress run run --markdown images", "regress run run --junit images", "regress run run --html images",
        "regress run run --markdown good.npz/x.md", "regress HEAD:../../etc/passwd run", "regress HEAD:x.json run",
        "flops --shape llava-1.5-7b --method sts", "flops --shape llava-1.5-8b --method sts --keep 64", "flops --keep 64",
        "flops --shape llava-1.5-7b --method sts --keep 64 --convention tops", "flops --shape tiny --method sts --keep 577",
        "flops --shape llava-1.5-7b --method sts --keep 64 --budget mean", "flops --shape llava-1.5-7b --method none --keep x",
    ):  # fmt: skip
        yield wrong(line)
    for model in (
        "", " ", "nowhere", "a/b/c", "../tiny", "/nowhere", "~/nowhere", ".", "images", "good.npz", "tiny/", "TINY", "a//b",
        "a b/c d", "\n", "x" * 5000, "a/" + "x" * 5000, "..\\tiny", "http://127.0.0.1/x/y", "a/../b", "é/ü", "a/b\n", "a/b?x#y",
    ):  # fmt: skip
        yield wrong("compare --model", model)
    for line, options in WHOLE.items():
        for option in options:
            for value in NO_NUMBER:
                yield wrong(line, f"--{option}", value)
    for line, options in TOO_SMALL.items():
        for option in options:
            for value in ("0", "-1", "-999999999999999999999"):
                yield wrong(line, f"--{option}", value)
    for value in ("-1", "-9" * 20):
        for line in ("compare", "capture --out o", "profile --model tiny", "select random good.npz --keep 4 --out o"):
            yield wrong(line, "--seed", value)
    for line in ("compare", "capture --out o", "profile --model tiny", "select random good.npz --keep 4 --out o"):
        yield wrong(line, "--seed", "9" * 40)
    for value in ("-1", "-5", "1" + "0" * 30):
        yield wrong("compare --analyse", value)
    for option in ("samples", "seeds", "batch-size", "max-new-tokens"):
        yield wrong("compare", f"--{option}", "1" + "0" * 18)
    for value in ("0", "-1", "1" + "0" * 18):
        yield wrong("profile --model llava-1.5-7b --random-weights --layers", value)
        yield wrong("profile --model tiny --rounds", value)
    for value in ("-1", "nan", "inf", "-inf", "-0.5", "x"):
        yield wrong("flops --shape llava-1.5-7b --method sts --keep 64 --text-tokens", value)
    for name, code in ENDS.items():
        line = "compare --task selects" if name == "tasks" else "list methods"
        yield wrong(f"{line} --plugin made_up_{name}", **{f"made_up_{name}__py": code})


KEEPS = (
    "", ",", " ", "x", "0", "-1", "nan", "inf", "-inf", "1e999", "1.5", "577", "1000000000", "1e9", "1e308", "64,x", "x,64",
    "64;32", "0,64", "64,-1", "64,1.5", "64,nan", "0x40", "64 32", "١٢.٥", "1e-400", "--", "64,64,0", "9" * 400, "1_0.5", "½",
)  # fmt: skip


def budgets() -> Iterator[Wrong]:
    """Budgets that no model can meet, or that are no budgets."""
    for text in KEEPS:
        yield wrong("compare --keep", text)
        yield wrong("flops --shape llava-1.5-7b --method sts --keep", text)
    for text in ("0", "-1", "-1000000000"):
        yield wrong("select divprune good.npz --out o --keep", text)
