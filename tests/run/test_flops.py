"""`flops` on public shapes: figures that papers print, by the papers' own formulas."""

import json
import subprocess
import sys

import pytest

from harness.errors import RequestError
from harness.models.shapes import PUBLIC, shape_of
from harness.run.flops import count
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget
from metrics.flops import flops

SYSTEM = 35  # tokens before the image in LLaVA-1.5's prompt, all the text that FastV's table counts


@pytest.mark.parametrize(
    ("name", "layers", "full", "pruned"), [("llava-1.5-7b", 32, 99.3, 54.6), ("llava-1.5-13b", 40, 154.6, 84.6)]
)
def test_fastv_table_one(name, layers, full, pruned):
    """FastV (arXiv:2403.06764), table 1, K = 2 and R = 50 %: GFLOPs of a layer, 55 % of the unpruned."""
    none = count(name, "none", None, "final", SYSTEM, "paper")["llm_prefill"]
    fastv = count(name, "fastv", "288", "final", SYSTEM, "paper")["llm_prefill"]
    assert none / layers / 1e9 == pytest.approx(full, rel=0.004)
    assert fastv / layers / 1e9 == pytest.approx(pruned, rel=0.004)
    assert fastv / none == pytest.approx(0.55, abs=0.005)


@pytest.mark.parametrize(
    ("name", "average", "full", "pruned"), [("llava-1.5-7b", "270", 3.82, 1.78), ("llava-next-7b", "1350", 20.8, 9.46)]
)
def test_pyramiddrop_table(name, average, full, pruned):
    """PyramidDrop (arXiv:2410.17247), table 1, lambda = 0.5: TFLOPs of visual tokens alone, gated MLP."""
    none = count(name, "none", None, "average", 0, "visual-only")
    dropped = count(name, "pyramiddrop", average, "average", 0, "visual-only")
    assert none["llm_prefill"] / 1e12 == pytest.approx(full, rel=0.003)
    assert dropped["llm_prefill"] / 1e12 == pytest.approx(pruned, rel=0.003)
    tokens = PUBLIC[name].visual_tokens
    assert dropped["schedule"][::8] == [tokens, tokens // 2, tokens // 4, tokens // 8]


def test_tiny_is_the_embedded_models_shape(adapter):
    for field, value in vars(shape_of("tiny")).items():
        assert getattr(adapter.shape, field) == value, field


@pytest.mark.parametrize("name", PUBLIC)
def test_every_shape_counts(name):
    shape = PUBLIC[name]
    assert shape.grid[0] * shape.grid[1] == shape.visual_tokens
    full = count(name, "none", None, "average", 40, "flops")
    half = count(name, "random", "0.5", "average", 40, "flops")
    assert half["llm_prefill"] < full["llm_prefill"] and half["vision"] == full["vision"]
    assert (
        full["kv_bytes"]
        == 2 * 2 * shape.kv_heads * shape.head_dim * shape.layers * (shape.visual_tokens + 40) * shape.kv_bytes / 2
    )
    same = count(name, "random", "0.5", "flops", 40, "flops")
    assert same["schedule"] == half["schedule"]


def test_windows_tiles_and_merging_are_counted():
    qwen, whole = PUBLIC["qwen2.5-vl-7b"], 4 * 1296
    vision = flops(qwen, plan(create("none"), qwen, Budget(1296))[1], 0).vision
    linear = whole * (8 * 1280**2 + 6 * 1280 * 3420)
    attention = 4 * whole * 1280 * (4 * whole + 28 * 64)
    assert vision == pytest.approx(32 * linear + attention + 2 * whole * 6 * 14**2 * 1280)
    one, five = (count(name, "none", None, "final", 0, "flops")["vision"] for name in ("llava-1.5-7b", "llava-next-7b"))
    assert five == 5 * one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llava-1.5-7", "none", None, "final", 0, "flops"), "did you mean 'llava-1.5-7b'"),
        (("tiny", "fastvv", "64", "final", 0, "flops"), "did you mean 'fastv'"),
        (("tiny", "fastv", None, "final", 0, "flops"), "--keep is missing"),
        (("tiny", "fastv", "64", "finel", 0, "flops"), "did you mean 'final'"),
        (("tiny", "fastv", "64", "final", 0, "flop"), "did you mean 'flops'"),
        (("tiny", "fastv", "64", "final", -1, "flops"), "0 or more"),
        (("tiny", "vtw", "64", "final", 0, "flops"), "0 tokens in the last layer"),
        (("tiny", "fastv", "20", "average", 0, "flops"), "at the least"),
        (("qwen2.5-vl-7b", "tome", "64", "average", 0, "flops"), "full grids"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(RequestError, match=message):
        count(*arguments)


def test_the_command_prints_the_contracts_keys():
    done = subprocess.run(
        [sys.executable, "-m", "harness", "flops", "--shape", "llava-1.5-7b", "--method", "sts", "--keep", "64", "--text-tokens",
         "40.5", "--budget", "average", "--json"], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"vision", "projector", "selection", "llm_prefill", "decode_per_token", "kv_bytes", "schedule"} <= set(found)
    assert len(found["schedule"]) == 32 and found["selection"] > 0


@pytest.mark.parametrize("method", ["feather", "ivcprune", "trim[adaptive=true]", "prumerge[plus=true]", "flowcut"])
def test_planned_counts_of_a_method_that_decides_them_are_told_apart(method):
    assert count("llava-1.5-7b", method, "192", "average", 64, "flops")["adaptive"] is True
    assert count("llava-1.5-7b", "divprune", "192", "average", 64, "flops")["adaptive"] is False


def test_the_table_says_so_in_words(capsys):
    from harness.cli.app import main

    for method, told in (("feather", True), ("fastv --keep 192", False)):
        with pytest.raises(SystemExit) as stop:
            main(["flops", "--shape", "llava-1.5-7b", "--method", *method.split()])
        assert stop.value.code == 0 and ("at most so many" in capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("mustdrop[total=0.01,single=0.01]", "no formula gives its FLOPs"),
        ("mustdrop[stages=llm,total=0.01,single=0.01]", "no formula gives its FLOPs"),
        ("random[like=feather]", "needs the counts that feather decides by the image"),
        ("random[like=mustdrop[total=0.01,single=0.01]]", "decides by the image"),
        ("random[like=mustdrop]", "decides by the image"),
    ],
)
def test_a_bound_of_all_tokens_is_no_figure(method, message):
    with pytest.raises(RequestError, match=message) as caught:
        count("llava-1.5-7b", method, "192", "average", 64, "flops")
    assert len(str(caught.value).splitlines()) == 1


def test_random_tokens_on_counts_that_follow_from_the_image_are_refused_wherever_nothing_measures_them(tmp_path):
    from harness.bridges.prompts import PromptPruner
    from harness.run.cases import select
    from harness.run.profiling.config import ProfileConfig
    from harness.run.profiling.profile import profile

    for like in ("mustdrop[total=0.01,single=0.01]", "trim[adaptive=true]", "ivcprune"):
        method = f"random[like={like}]"
        for call in (
            lambda: PromptPruner(method, 64, "average", 0, {}),
            lambda: profile(ProfileConfig(model="tiny", methods=(method,))),
            lambda: select(method, [tmp_path / "none.npz"], 9, tmp_path / "out"),
        ):
            with pytest.raises(RequestError, match="compare alone measures them"):
                call()
