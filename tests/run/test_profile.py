"""Profiles on small models of the public families' own classes, with random weights."""

import json

import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.models import hf, published
from harness.models.published import internvl, llava, qwen, smolvlm
from harness.run.latency_pass import LatencyRounds
from harness.run.plan import make_cells
from harness.run.profile import ProfileConfig, as_text, profile, sharing_gain

LANGUAGE = (64, 112, 4, 4, 2, 500)
SMALL = {
    "llava-1.5-7b": lambda: llava((48, 80, 3, 4, 56, 14), LANGUAGE),
    "llava-next-7b": lambda: llava((48, 80, 3, 4, 336, 14), LANGUAGE, tiled=True),
    "internvl3-1b": lambda: internvl((32, 80, 2, 2, 448, 14), LANGUAGE),
    "smolvlm2": lambda: smolvlm((32, 80, 2, 2, 126, 14), LANGUAGE),
    "qwen2.5-vl-3b": lambda: qwen((32, 44, 4, 2, None, 14), 112, (1, 3), LANGUAGE),
}


@pytest.fixture
def small(monkeypatch):
    for name, make in SMALL.items():
        monkeypatch.setitem(published.PUBLISHED, name, make)
    monkeypatch.setattr(published, "SIDE", {"qwen2.5-vl-3b": 224, "llava-next-7b": 672})


@pytest.mark.parametrize(
    ("name", "visual"), [("llava-1.5-7b", 16), ("internvl3-1b", 256), ("smolvlm2", 9), ("qwen2.5-vl-3b", 64)]
)
def test_a_family_is_profiled(small, name, visual):
    found = profile(
        ProfileConfig(model=name, random_weights=True, methods=("divprune", "sts", "visionzip"), keep=("0.5",), rounds=2)
    )
    assert found["image"] == visual and found["weights"] == "random"
    cells = {c["method"]: c for c in found["cells"]}
    assert cells["none"]["latency"]["ratio"]["value"] == 1 and cells["divprune"]["tokens"]["final"] == round(visual / 2)
    for cell in cells.values():
        if not cell["skipped"]:
            assert cell["memory"]["kv_measured"] == cell["memory"]["kv_predicted"] and cell["latency"]["ttft"]["value"] > 0
    assert bool(cells["visionzip"]["skipped"]) == (name != "llava-1.5-7b")
    text = as_text(found)
    assert "A/A check" in text and "questions an image" in text and ("skipped: " in text) == (name != "llava-1.5-7b")


def test_a_batch_of_prompts_and_fewer_layers(small):
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("random",), keep=("8",), rounds=1, layers=2, batch_size=3
    )
    found = profile(config)
    assert found["layers"] == 2 and found["batch_size"] == 3
    random = next(c for c in found["cells"] if c["method"] == "random")
    assert random["memory"]["kv_measured"] == random["memory"]["kv_predicted"]


def test_the_expected_gain_against_a_count_by_hand(adapter):
    """One text-free method before the LLM: tower and projector once, prefill at the length of image and all questions."""
    from harness.run.config import CompareConfig

    cells = [
        c for c in make_cells(CompareConfig(methods=("random",), keep=("64",)), adapter.shape, False) if c.method in ("none",)
    ]
    stages = {0: {"vision": 4.0, "projector": 1.0, "selection": 0.5, "prefill": 2.0, "decode": 0.25}}
    gain = sharing_gain(cells, stages, visual=100, text=20, questions=5)
    alone = 5 * (4 + 1 + 0.5 + 2 + 0.25)
    together = 4 + 1 + 0.5 + 2 * (100 + 5 * 20) / 120 + 5 * 0.25
    assert gain["across_questions"] == pytest.approx(alone / together) and gain["across_cells"] == pytest.approx(1)
    one = sharing_gain(cells, stages, visual=100, text=20, questions=1)
    assert one["both"] == pytest.approx(1)
    config = CompareConfig(methods=("fastv",), keep=("64",))
    both = [c for c in make_cells(config, adapter.shape, False) if c.method in ("none", "fastv")]
    k, counts = both[1].steps[0].site.layer, both[1].schedule.llm
    before = sum(counts[:k]) / sum(counts)  # of its prefill: the unpruned model has run these layers
    pair = sharing_gain(both, {0: stages[0], 1: {**stages[0], "prefill": 1.0}}, visual=100, text=20, questions=1)
    assert pair["both"] == pytest.approx(2 * (4 + 1 + 0.5 + 1.5 + 0.25) / (5 + 2 * 0.75 + 2 + 1 * (1 - before)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "llava-1.5-7bb", "random_weights": True}, "did you mean 'llava-1.5-7b'"),
        ({"layers": 99, "random_weights": True}, "1 to 4"),
        ({"layers": 2}, "only with --random-weights"),
        ({"revision": "v1", "random_weights": True}, "--revision: is about trained weights"),
        ({"device_map": "auto", "random_weights": True}, "--device-map: is about trained weights"),
        ({"quantize": 4, "random_weights": True}, "--quantize: is about trained weights"),
        ({"model": "tiny", "quantize": 3}, "choose 4 or 8 bits"),
        ({"model": "tiny", "revision": "v1"}, "has no revisions"),
        ({"rounds": 0}, "at least 1"),
        ({"text_tokens": 1}, "at least 2"),
        ({"keep": ("17",), "random_weights": True}, "16 visual tokens"),
        ({"methods": ("fastvv",), "random_weights": True}, "did you mean 'fastv'"),
    ],
)
def test_wrong_requests(small, options, message):
    with pytest.raises(RequestError, match=message) as caught:
        profile(ProfileConfig(**options))
    assert len(str(caught.value).splitlines()) <= 3


def test_from_the_command_line(small, capsys):
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "profile",
                "--model",
                "llava-1.5-7b",
                "--random-weights",
                "--methods",
                "grid",
                "--keep",
                "8",
                "--rounds",
                "1",
                "--json",
            ]
        )
    assert stop.value.code == 0 and json.loads(capsys.readouterr().out)["cells"][0]["method"] == "none"


@pytest.mark.parametrize("command", ["profile", "capture --out never"])
def test_how_trained_weights_are_loaded_reaches_the_loader(command, monkeypatch, capsys):
    asked = []

    def load(name, *arguments, options=None):
        asked.append((name, (options or arguments[-1]).given))
        raise RequestError("seen")

    monkeypatch.setattr(hf, "load", load)
    options = "--model a/b --revision v2 --device-map auto --quantize 4 --companion clip --max-pixels 4096"
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), *options.split()])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: seen\n"
    given = {"--revision": "v2", "--device-map": "auto", "--quantize": 4, "--companion": "clip", "--max-pixels": 4096}
    assert asked == [("a/b", given)]


def test_what_the_rounds_gave_by_cell_and_stage():
    timed = LatencyRounds(
        [(0, 0, 0, "vision", 1.0), (0, 0, 1, "vision", 3.0), (0, 1, 0, "vision", 5.0), (1, 0, 0, "prefill", 7.0)]
    )
    timed.rows += [(0, 0, 2, "vision", 2.0), (0, 0, 0, "prefill", 4.0)]
    assert {stage: values.tolist() for stage, values in timed.seconds(0).items()} == {"vision": [1, 3, 2], "prefill": [4]}
    assert timed.seconds(0, 1)["vision"].tolist() == [5]
    assert timed.medians(0) == {"vision": 2, "prefill": 4}
    assert timed.medians(2) == {}


def test_a_reference_that_was_asked_for_is_told_why_it_is_left_out():
    """Of a single round there is a figure without an interval."""
    found = profile(ProfileConfig(model="tiny", methods=("oracle",), keep=("8",), rounds=1, text_tokens=2, answer_tokens=1))
    cells = {cell["method"]: cell for cell in found["cells"]}
    assert "does not know its evidence" in cells["oracle"]["skipped"]
    assert found["checks"]["aa"]["lo"] is None and "A/A check: none against itself " in as_text(found)


@pytest.mark.parametrize(
    "method", ["mustdrop[total=0.01,single=0.01]", "ivcprune", "feather", "trim[adaptive=true]", "prumerge[adaptive=true]"]
)
def test_counts_that_follow_from_the_image_are_those_of_the_timed_run(method):
    """The caches that stand behind the prompt tell how many tokens were there; the plan would be a bound."""
    config = ProfileConfig(
        model="tiny", methods=(method,), keep=("64",), rounds=1, text_tokens=8, answer_tokens=1, self_check=False
    )
    found = profile(config)
    cells = {cell["method"]: cell for cell in found["cells"]}
    assert set(cells) == {"none", "downsample", method} and cells[method]["skipped"] is None
    cell, none = cells[method], cells["none"]
    assert cell["memory"]["kv_predicted"] is None and none["memory"]["kv_predicted"] == none["memory"]["kv_measured"]
    assert cell["tokens"]["average"] < none["tokens"]["average"] and cell["flops"]["total"] < none["flops"]["total"]
    if method != "ivcprune" and not method.startswith("mustdrop"):  # those cut the caches of earlier layers too
        per_token = none["memory"]["kv_measured"] / (none["tokens"]["average"] + 8)
        assert cell["memory"]["kv_measured"] == pytest.approx(per_token * (cell["tokens"]["average"] + 8))
