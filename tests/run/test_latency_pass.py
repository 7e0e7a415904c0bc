"""The latency pass of `compare`: what the manifest tells of it, when a note is due, and what a resumed run may change."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.engine.stopwatch import STAGES
from harness.errors import RequestError
from harness.models import hf
from harness.run.asked_prompts import AskedPrompts
from harness.run.comparison import Run, compare
from harness.run.config import CompareConfig
from harness.run.latency_rounds import LEAST_ROUNDS
from harness.run.prompt_inputs import PromptOnHost
from tests.small_model import KEEP, small_model

REQUEST = {"methods": ("random",), "keep": (KEEP,), "samples": 1, "analyse": 0, "seeds": 1, "workers": 1, "self_check": False}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Compares on the small model; pages are not drawn."""
    monkeypatch.setattr("reports.page.render", lambda view: "")
    monkeypatch.setattr(hf, "load", lambda *given, **named: small_model())

    def start(**options) -> Run:
        return compare(**REQUEST | {"out": tmp_path / "run"} | options)

    return start


def test_the_manifest_tells_how_the_pass_went_and_the_least_is_noted(run):
    found = run(time_limit=0.0, decode_tokens=3, rounds=2)
    manifest = found.store.manifest()
    timing = manifest["timing"]
    cells = len(found.store.timings())
    assert timing.pop("used") > 0 and timing == {
        "time_limit": 0.0, "decode_tokens": 3, "stage_rounds": 1, "ttft_rounds": LEAST_ROUNDS, "known": 0, "of": cells - 1,
    }  # fmt: skip
    (note,) = (note for note in manifest["notes"] if "the latency pass took" in note)
    assert "where --time-limit allows 0 s: 3 rounds of times to first token and one of stages are taken in any case" in note
    for stages in found.store.timings().values():
        assert set(stages) == {*STAGES, "total", "ttft"}
        assert len(stages["ttft"]) == LEAST_ROUNDS and {len(stages[stage]) for stage in STAGES} == {1}
        whole = sum(stages[stage] for stage in STAGES if stage != "decode") + 2 * stages["decode"]
        assert np.allclose(whole, stages["total"])
    assert len(found.store.timings(1)) == 1  # `none` again


def test_cells_that_are_added_are_timed_beside_none_and_earlier_passes_are_told(run, tmp_path):
    first = run(time_limit=0.0).store.manifest()["timing"]
    grown = compare(extend=tmp_path / "run", methods=("grid",), self_check=False)
    timing, times = grown.store.manifest()["timing"], grown.store.timings()
    assert timing["before"] == [first] and timing["of"] == 1
    assert {number for number, _ in times} == {0, 1} and len([cell for number, cell in times if number == 1]) == 2
    assert len(times) == (first["of"] + 1) + 2


def test_a_pass_within_its_limit_says_nothing(run):
    found = run(time_limit=12.0, rounds=1, references=False)
    manifest = found.store.manifest()
    assert manifest["timing"]["ttft_rounds"] > LEAST_ROUNDS  # known of no fewer than 6, or time was left
    assert not any("latency pass" in note for note in manifest["notes"])


def test_how_long_times_are_taken_is_no_part_of_what_a_run_is(run, tmp_path):
    """A run that an older version began had six rounds and no limit, which nobody can ask for by default any more."""
    found = run(latency=False)
    (tmp_path / "run" / "summary.json").unlink()
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    older = {name: value for name, value in manifest["config"].items() if name not in ("time_limit", "decode_tokens")}
    path.write_text(json.dumps(manifest | {"config": older | {"rounds": 6}}))
    again = run(latency=False, resume=True, time_limit=1.0, decode_tokens=8)
    assert again.store.manifest()["digest"] == found.store.manifest()["digest"]


@pytest.mark.parametrize(("model", "tokens"), [("tiny", 16), ("somebody/model", 64)])
def test_decoding_is_timed_in_more_tokens_on_a_model_that_is_not_embedded(run, model, tokens):
    found = run(model=model, time_limit=0.0, references=False)
    assert found.store.manifest()["timing"]["decode_tokens"] == tokens


@pytest.mark.parametrize(("method", "left"), [("random", "none blind"), ("none", "")])
def test_a_cell_that_fails_in_the_pass_costs_its_times_and_no_answer(run, monkeypatch, method, left):
    real = PromptOnHost.batch_for

    def batch_for(self, cell):
        if cell.method == method:
            raise MemoryError("9 bytes")
        return real(self, cell)

    monkeypatch.setattr(PromptOnHost, "batch_for", batch_for)
    found = run(time_limit=0.0)
    timed = {cell["method"] for cell in found.summary["cells"] if cell["latency"] is not None}
    assert timed >= set(left.split()) and method not in timed and bool(timed) == bool(left)
    assert all(cell["accuracy"] is not None for cell in found.summary["cells"] if not cell["skipped"])
    told = f"no times of random at {KEEP}: " if left else "no times: none failed in the latency pass: "
    assert f"{told}out of memory (9 bytes)" in found.store.manifest()["notes"]


@pytest.mark.parametrize(("room", "decoded"), [(5, 5), (1, 2), (900, 16)])
def test_no_more_tokens_are_decoded_than_the_model_takes_behind_the_prompt(run, monkeypatch, room, decoded):
    """What lies behind the positions that a model was made for is timed on angles that nobody would run it on."""
    monkeypatch.setattr(AskedPrompts, "rooms", lambda self, adapter, spans: [room] * len(self.questions))
    manifest = run(time_limit=0.0, rounds=1, references=False).store.manifest()
    assert manifest["timing"]["decode_tokens"] == decoded
    cut = f"decoding was timed over {decoded} tokens, not 16: the model takes no more behind the prompt"
    assert (cut in manifest["notes"]) == (decoded < 16)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time_limit": -1.0}, "--time-limit -1.0: must be 0 or more seconds"),
        ({"time_limit": float("nan")}, "--time-limit nan: must be 0 or more seconds"),
        ({"time_limit": 1e9}, "--time-limit 1000000000.0: must be at most 86,400 seconds"),
        ({"decode_tokens": 1}, "--decode-tokens 1: must be at least 2 tokens"),
        ({"rounds": 0}, "--rounds 0: must be at least 1 rounds"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(RequestError, match=said):
        CompareConfig(**options).checked()
