"""Profiles on small models of the public families' own classes, with random weights."""

import itertools
import json

import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.models import hf, published
from harness.models.published import internvl, llava, qwen, smolvlm
from harness.run.plan import make_cells
from harness.run.profiling.config import ProfileConfig, whole_numbers
from harness.run.profiling.profile import profile
from harness.run.profiling.rounds import CellTimer
from harness.run.profiling.sharing_gain import sharing_gain
from harness.run.profiling.text import as_text

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


SHORT = {"batch_size": (1,), "answer_tokens": 2, "rounds": 1, "time_limit": 100.0}


@pytest.mark.parametrize(
    ("name", "visual"), [("llava-1.5-7b", 16), ("internvl3-1b", 256), ("smolvlm2", 9), ("qwen2.5-vl-3b", 64)]
)
def test_a_family_is_profiled(small, name, visual):
    methods = ("divprune", "sts", "visionzip")
    found = profile(ProfileConfig(model=name, random_weights=True, methods=methods, keep=("0.5",), break_even=False, **SHORT))
    assert found["image"] == visual and found["weights"] == "random" and found["finished"]
    cells = {c["method"]: c for c in found["cells"]}
    assert cells["divprune"]["tokens"]["final"] == round(visual / 2) and cells["blind"]["tokens"]["final"] == 0
    assert cells["none"]["ratio"]["answer"]["value"] == 1
    for cell in cells.values():
        if not cell["skipped"]:
            assert cell["memory"]["kv_measured"] == cell["memory"]["kv_predicted"]
            assert 0 < cell["ttft"]["p50"] < cell["answer"]["p50"] and cell["token"]["times"] == cell["rounds"]
    assert bool(cells["visionzip"]["skipped"]) == (name != "llava-1.5-7b")
    text = as_text(found)
    assert "A/A check" in text and "questions an image" in text and ("skipped: " in text) == (name != "llava-1.5-7b")
    json.dumps(found, allow_nan=False)


def test_batches_lengths_of_text_and_fewer_layers(small):
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("random", "fastv"), keep=("8",), layers=3, batch_size=(3, 1),
        text_tokens=(8, 20), answer_tokens=3, rounds=6, time_limit=900.0,
    )  # fmt: skip
    found = profile(config)
    assert found["layers"] == 3 and found["batch_size"] == [1, 3] and not found["left_out"]
    cells = {(c["method"], c["batch_size"], c["text_tokens"]): c for c in found["cells"]}
    assert len(cells) == 2 * 2 * 5  # none, blind, downsample, and two methods
    for (_, batch, _), cell in cells.items():
        assert cell["memory"]["kv_measured"] == cell["memory"]["kv_predicted"]
        speed, answer = cell["throughput"], cell["answer"]["p50"] / 1e3
        assert speed["answers_per_second"] == pytest.approx(batch / answer)
        assert speed["tokens_per_second"] == pytest.approx(3 * batch / answer)
        assert speed["decoded_per_second"] == pytest.approx(batch / (cell["token"]["p50"] / 1e3))
        assert cell["ttft"]["p50"] <= cell["ttft"]["p95"] and cell["token"]["times"] == 2 * cell["rounds"]
        stages = {one["stage"] for one in cell["bounds"]}
        assert {"prefill", "decode"} <= stages and all(one["operations"] > 0 for one in cell["bounds"])
    evens = {(one["method"], one["batch_size"], one["text_tokens"]): one for one in found["break_even"]}
    assert set(evens) == {(method, batch, text) for method in ("random", "fastv") for batch in (1, 3) for text in (8, 20)}
    for one in evens.values():  # on a machine with other work an interval may leave it open
        assert one["trials"] and all(trial["rounds"] == 6 for trial in one["trials"]) and not one["cut"]
        assert (one["outcome"] == "unknown") == bool(one["why"]) and one["outcome"] in ("always", "never", "at", "unknown")
    assert [one["aa"]["rounds"] for one in found["checks"]] == [6] * 4
    largest = {(one["method"], one["text_tokens"]): one for one in found["largest_batch"]}
    assert set(largest) == {(method, text) for method, _, text in cells}
    text = as_text(found)
    assert "Batch of 3, 20 tokens of text" in text and "Break-even" in text and "Largest batch that fits" in text


def test_a_time_limit_is_kept_and_what_it_left_out_is_said(small):
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("sts",), keep=("8",), batch_size=(1, 2, 3), time_limit=0.01,
    )  # fmt: skip
    found = profile(config)
    rows = [row for row in found["cells"] if row["left_out"]]
    assert {row["batch_size"] for row in rows} >= {2, 3} and found["used"] < 30
    assert any(sentence.startswith("batch 3 with 64 tokens of text: ") for sentence in found["left_out"])
    assert any("0.01 s" in sentence for sentence in found["left_out"])
    assert all(f"Left out: {sentence}." in as_text(found) for sentence in found["left_out"])
    assert all(one["outcome"] == "unknown" and one["why"] for one in found["break_even"])


def test_what_was_measured_is_handed_over_setting_by_setting(small):
    kept = []
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("grid",), keep=("8",), break_even=False,
        **{**SHORT, "batch_size": (1, 2)},
    )  # fmt: skip

    def keep(found):
        kept.append(json.loads(json.dumps(found)))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(config, keep)
    first, second = kept
    assert not first["finished"] and first["left_out"] == ["batch 2 with 64 tokens of text: not begun yet"]
    assert second["finished"] and not second["left_out"]
    assert all(row["bounds"] for row in first["cells"])
    assert [row["answer"] for row in first["cells"]] == [row["answer"] for row in second["cells"][: len(first["cells"])]]


@pytest.mark.parametrize("run", [0, 3, 52])
def test_an_interruption_keeps_what_was_measured_of_the_setting_under_way(small, monkeypatch, run):
    """Whichever run it comes in: the first one, a round, or one that looks for break-even."""
    kept, runs = [], itertools.count()
    real = CellTimer._request

    def request(timer, *arguments):
        if timer.count == 2 and next(runs) == run:
            raise KeyboardInterrupt
        return real(timer, *arguments)

    monkeypatch.setattr(CellTimer, "_request", request)
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("grid",), keep=("8",), answer_tokens=2, rounds=6,
        batch_size=(1, 2, 3),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        profile(config, lambda found: kept.append(json.loads(json.dumps(found, allow_nan=False))))
    assert len(kept) == 2 and not kept[1]["finished"]
    rows = [row for row in kept[1]["cells"] if row["batch_size"] == 2]
    timed = [row["method"] for row in rows if row["left_out"] is None]
    assert timed == ([] if run == 0 else ["none", "blind", "downsample"] if run == 3 else ["none", "blind", "downsample", "grid"])
    assert all(row["left_out"] == "interrupted" for row in rows if row["method"] not in timed)
    if run == 52:
        (even,) = (one for one in kept[1]["break_even"] if one["batch_size"] == 2)
        assert even["cut"] == "interrupted" and all(row["rounds"] == 6 for row in rows)
    place = "break-even of grid at batch 2" if run == 52 else "batch 2"
    assert f"{place} with 64 tokens of text: interrupted" in kept[1]["left_out"]
    assert "batch 3 with 64 tokens of text: interrupted before" in kept[1]["left_out"]
    assert "interrupted" in as_text(kept[1])


def test_of_fewer_rounds_than_tell_anything_break_even_is_not_looked_for(small):
    config = ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("grid",), keep=("8",), batch_size=(1,), answer_tokens=2, rounds=5,
    )  # fmt: skip
    found = profile(config)
    (even,) = found["break_even"]
    assert even["outcome"] == "unknown" and not even["trials"] and "of 5 rounds (--rounds) nothing is known" in even["cut"]
    assert any("of 5 rounds (--rounds) nothing is known, 6 are the least" in said for said in found["left_out"])


def test_what_passed_the_time_limit_says_so(small):
    found = profile(ProfileConfig(
        model="llava-1.5-7b", random_weights=True, methods=("grid",), keep=("8",), break_even=False, batch_size=(1, 64),
        answer_tokens=2, time_limit=1e-3,
    ))  # fmt: skip
    assert "; what is begun runs to the end of its round" in as_text(found)
    assert {row["rounds"] for row in found["cells"] if row["left_out"] is None and not row["skipped"]} <= {1}
    assert [one["dtype"] for one in found["calibrations"]] == [found["dtype"]] * 2
    assert found["rates"]["flops"] == max(one["flops"] for one in found["calibrations"])


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
        ({"text_tokens": (1,)}, "--text-tokens 1: must be at least 2; one token stands before the image"),
        ({"text_tokens": ()}, "name at least one"),
        ({"batch_size": (4, 0)}, "--batch-size 0: must be at least 1"),
        ({"batch_size": (4, 70_000)}, "at most 65,536"),
        ({"batch_size": (4, 4)}, "--batch-size 4,4: names a number twice"),
        ({"answer_tokens": 1}, "--answer-tokens 1: must be at least 2"),
        ({"time_limit": 0.0}, "--time-limit 0: must be above 0"),
        ({"time_limit": float("nan")}, "--time-limit nan: must be above 0"),
        ({"dtype": "float31"}, "float32"),
        ({"keep": ("17",), "random_weights": True}, "16 visual tokens"),
        ({"methods": ("fastvv",), "random_weights": True}, "did you mean 'fastv'"),
    ],
)
def test_wrong_requests(small, options, message):
    with pytest.raises(RequestError, match=message) as caught:
        profile(ProfileConfig(**options))
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("text", ["", "1,,4", "1;4", "four", "1.5", "1e3", "٣", "9" * 30])
def test_a_list_of_whole_numbers_holds_nothing_else(text):
    with pytest.raises(RequestError, match="is no whole number; write such as 1,4,16"):
        whole_numbers("--batch-size", text)


def test_a_list_of_whole_numbers():
    assert whole_numbers("--batch-size", "1, 4,16") == (1, 4, 16) and whole_numbers("--batch-size", "-3") == (-3,)


WORDS = "profile --model llava-1.5-7b --random-weights --methods grid --keep 8 --rounds 1 --batch-size 1,2 --answer-tokens 2"


def test_from_the_command_line(small, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*WORDS.split(), "--time-limit", "100", "--json", "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert stop.value.code == 0 and found["cells"][0]["method"] == "none"
    assert json.loads((tmp_path / "out" / "profile.json").read_text()) == found
    page = (tmp_path / "out" / "profile.html").read_text()
    assert "Content-Security-Policy" in page and "<script" not in page and "Break-even" in page
    assert "profile.html" in said.err


def test_a_profile_that_is_there_is_not_written_over(small, capsys, tmp_path):
    (tmp_path / "profile.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main([*WORDS.split(), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "holds the profile.json of another profile" in capsys.readouterr().err
    assert (tmp_path / "profile.json").read_text() == "{}" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("out", [False, True])
def test_an_interrupted_command_shows_what_it_measured(small, capsys, tmp_path, monkeypatch, out):
    runs, real = itertools.count(), CellTimer.in_one_piece

    def in_one_piece(timer):
        if timer.count == 2 and next(runs) == 1:
            raise KeyboardInterrupt
        real(timer)

    monkeypatch.setattr(CellTimer, "in_one_piece", in_one_piece)
    with pytest.raises(SystemExit) as stop:
        main([*WORDS.split(), "--time-limit", "100", "--json", *(["--out", str(tmp_path)] if out else [])])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert stop.value.code == 130 and not found["finished"] and "batch 2 with 64 tokens of text: interrupted" in found["left_out"]
    assert "interrupted; what was measured by then is shown" in said.err and "repeat the command for the rest" in said.err
    if out:
        assert json.loads((tmp_path / "profile.json").read_text()) == found and str(tmp_path) in said.err
        assert "This profile was not finished" in (tmp_path / "profile.html").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--batch-size 1,x", "--batch-size '1,x': 'x' is no whole number"),
        ("--text-tokens 0", "--text-tokens 0: must be at least 2"),
        ("--out /dev/null/never", "--out '/dev/null/never': cannot write there"),
        ("--time-limit -3", "--time-limit -3: must be above"),
        ("--keep 0", "--keep '0'"), ("--budget tokens", "choose average, final or flops"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_one_line(small, capsys, more, said):
    with pytest.raises(SystemExit) as stop:
        main([*WORDS.split(), *more.split()])
    shown = capsys.readouterr()
    assert stop.value.code == 2 and said in shown.err and len(shown.err.splitlines()) == 1 and not shown.out


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


def test_a_reference_that_was_asked_for_is_told_why_it_is_left_out():
    """Of a single round there is a figure without an interval."""
    found = profile(ProfileConfig(model="tiny", methods=("oracle",), keep=("8",), text_tokens=(2,), break_even=False, **SHORT))
    cells = {cell["method"]: cell for cell in found["cells"]}
    assert "does not know its evidence" in cells["oracle"]["skipped"]
    assert found["checks"][0]["aa"]["lo"] is None and "A/A check: none against itself " in as_text(found)


@pytest.mark.parametrize(
    "method", ["mustdrop[total=0.01,single=0.01]", "ivcprune", "feather", "trim[adaptive=true]", "prumerge[adaptive=true]"]
)
def test_counts_that_follow_from_the_image_are_those_of_the_timed_run(method):
    """The caches that stand behind the prompt tell how many tokens were there; the plan would be a bound."""
    config = ProfileConfig(
        model="tiny", methods=(method,), keep=("64",), text_tokens=(8,), self_check=False, break_even=False,
        **{**SHORT, "batch_size": (2,)},
    )  # fmt: skip
    found = profile(config)
    cells = {cell["method"]: cell for cell in found["cells"]}
    assert set(cells) == {"none", "blind", "downsample", method} and cells[method]["skipped"] is None
    cell, none = cells[method], cells["none"]
    assert cell["memory"]["kv_predicted"] is None and none["memory"]["kv_predicted"] == none["memory"]["kv_measured"]
    assert cell["tokens"]["average"] < none["tokens"]["average"] and cell["flops"]["total"] < none["flops"]["total"]
    if method != "ivcprune" and not method.startswith("mustdrop"):  # those cut the caches of earlier layers too
        per_token = none["memory"]["kv_measured"] / (none["tokens"]["average"] + 8)
        assert cell["memory"]["kv_measured"] == pytest.approx(per_token * (cell["tokens"]["average"] + 8))
    assert cell["token"]["times"] == 2 * cell["rounds"]  # prompts run one after the other, each with a token behind the first
