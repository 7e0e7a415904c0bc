"""The check of a machine: planted faults are called faults, and sums in another order are not."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers.integrations.sdpa_attention as stock
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.cli.checking_machine import selfcheck
from harness.errors import RequestError
from harness.run.executors.local import threads
from harness.run.machine_check.against_cpu import check_against_cpu
from harness.run.machine_check.against_reference import check_against_reference
from harness.run.machine_check.check import check_machine
from harness.run.machine_check.choices import Replay, noting, replaying
from harness.run.machine_check.reference_cases import METHODS, ReferenceQuestions
from harness.run.machine_check.regenerate import regenerate
from harness.run.machine_check.rounding import DRAWS, LIMIT, NOISE, Fingerprint
from harness.run.machine_check.stored_results import FOLDER, LOG, RESULTS, read
from methods.types import PROJECTOR, Selection, Signals, Step

FEW = ("fastv", "divprune", "visionzip")


@pytest.fixture(scope="module")
def reference():
    return read()[0]


def tenths(tensor):
    """A tensor rounded to TF32: ten bits of mantissa."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def next_layer(patch):
    real = ReferenceQuestions.__init__

    def made(self, *given):
        real(self, *given)
        layers = self.adapter.decoder.layers
        layers[3].load_state_dict(layers[4].state_dict())

    patch.setattr(ReferenceQuestions, "__init__", made)


def turned(patch):
    changed(patch, "cls_attention", lambda table: table.unflatten(-1, (24, 24)).transpose(-1, -2).flatten(-2))


def other_sign(patch):
    changed(patch, "features", lambda table: -table)


def changed(patch, name, change):
    real = Signals.only

    def only(self, needs):
        return real(replace(self, **{name: change(getattr(self, name))}) if name in needs else self, needs)

    patch.setattr(Signals, "only", only)


def scaled(patch):
    real = stock.sdpa_attention_forward
    patch.setattr(
        stock, "sdpa_attention_forward", lambda *given, scaling=None, **rest: real(*given, scaling=1.002 * scaling, **rest)
    )


def tf32(patch):
    real = torch.nn.functional.linear
    patch.setattr(torch.nn.functional, "linear", lambda table, weight, bias=None: real(tenths(table), weight, bias))


def decoding(patch):
    """Attention of one new token over the cache alone, which the first token of an answer does not show."""
    real = torch.nn.functional.scaled_dot_product_attention
    patch.setattr(
        torch.nn.functional, "scaled_dot_product_attention",
        lambda query, *given, **named: real(query, *given, **named) * (1.002 if query.shape[-2] == 1 else 1),
    )  # fmt: skip


def no_number(patch):
    def change(table):
        table = table.clone()
        table[:, 7, 3] = float("nan")
        return table

    changed(patch, "features", change)


FAULTS = {
    "the next layer": (next_layer, {"fastv", "divprune", "visionzip"}),
    "a turned signal": (turned, {"visionzip"}),
    "another sign": (other_sign, {"divprune"}),
    "scaled attention": (scaled, {"fastv", "divprune", "visionzip"}),
    "products in TF32": (tf32, {"fastv", "divprune", "visionzip"}),
    "decoding from the cache": (decoding, {"fastv", "divprune", "visionzip"}),
    "no number": (no_number, {"divprune"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_called_a_fault(reference, monkeypatch, name):
    plant, methods = FAULTS[name]
    plant(monkeypatch)
    found = check_against_reference(reference, "cpu", "float32", FEW)
    assert {line.partition(",")[0] for line in found.differences if "weights" not in line} == methods, found.differences
    assert all("may be rounding" in line or "signals differ" in line for line in found.differences if "weights" not in line)
    if name == "decoding from the cache":
        assert all("logits of answer token 2 differ" in line for line in found.differences)


@pytest.mark.parametrize("name", ["the next layer", "a turned signal", "another sign"])
def test_gross_faults_are_seen_in_half_precision_too(reference, monkeypatch, name):
    """By some of the methods that they touch: what rounding hides there is seen in float32."""
    plant, methods = FAULTS[name]
    plant(monkeypatch)
    found = check_against_reference(reference, "cpu", "bfloat16", FEW)
    told = {line.partition(",")[0] for line in found.differences if "weights" not in line}
    assert told and told <= methods, found.differences


SOME = (*FEW, "vispruner", "tome", "sts")
"""With a greedy one, a merger in the tower, and one that chooses three times."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_kernel_for_attention_is_no_fault(reference, dtype):
    with sdpa_kernel(SDPBackend.MATH):
        found = check_against_reference(reference, "cpu", dtype, SOME)
    assert not found.differences
    assert 0 < found.figures["furthest_signal"] < LIMIT[getattr(torch, dtype)]
    assert found.ties, "greedy selection among alike tokens has near ties in either precision"


def test_other_threads_and_deterministic_sums_are_no_fault(reference):
    torch.use_deterministic_algorithms(True)
    try:
        with threads(2 if torch.get_num_threads() == 1 else 1):
            found = check_against_reference(reference, "cpu", "float32", ("vispruner",))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not found.differences


def step(select, **more) -> Step:
    return Step(PROJECTOR, select, 3, 3, frozenset({"features"}), **more)


def signals(scores, noise: float = 0.0) -> Signals:
    """Tokens whose first number is a score; the second makes rows alike in size."""
    scores = torch.tensor([scores]) + noise * torch.arange(len(scores))
    return Signals.collected(features=torch.stack([scores, torch.ones_like(scores)], -1), count=scores.shape[1])


def best(given: Signals, keep: int) -> Selection:
    return Selection(given.features[..., 0].topk(keep).indices)


def held(wanted: Signals, found: Signals, there=best, here=best, dtype=torch.float32) -> Replay:
    """What comes of a selector that is given other signals, or is another one."""
    notes, replay = [], Replay()
    (noted,) = noting([step(there)], notes, dtype)
    chosen = noted.select(wanted.only(frozenset({"features"})), 3)
    (replayed,) = replaying([step(here)], notes, replay, dtype)
    handed = replayed.select(found.only(frozenset({"features"})), 3)
    assert set(handed.indices[0].tolist()) == set(chosen.indices[0].tolist()) or replay.parted
    return replay


def test_a_near_tie_is_told_and_the_reference_goes_on():
    replay = held(signals([0.9, 0.8, 0.7000001, 0.7, 0.1]), signals([0.9, 0.8, 0.6999999, 0.7, 0.1]))
    assert not replay.faults and len(replay.ties) == 1
    assert replay.ties[0].startswith("at projector 1 token is chosen (3) and 1 token is not chosen (2); noise of 1.0e-05")


def test_a_clear_choice_that_differs_is_a_fault_though_signals_are_the_same():
    given = signals([0.9, 0.8, 0.7, 0.6, 0.1])
    second = lambda found, keep: Selection(found.features[..., 0].topk(keep + 1).indices[:, 1:])
    replay = held(given, given, here=second)
    assert not replay.ties
    assert replay.faults == [
        "at projector 1 token is chosen (3) and 1 token is not chosen (0); noise as rounding brings it moves 0 at the most"
    ]


def test_a_near_tie_excuses_no_other_token():
    """The third place is a near tie; that another token lost the first one is not excused by it."""
    given = signals([0.9, 0.8, 0.7, 0.7, 0.1])
    wrong = lambda found, keep: Selection(torch.tensor([[1, 3, 4]]) if found is not None else None)
    calls = []

    def sometimes(found, keep):
        calls.append(keep)
        return wrong(found, keep) if len(calls) == 1 else best(found, keep)

    replay = held(given, given, here=sometimes)
    assert not replay.ties and len(replay.faults) == 1


def test_signals_that_differ_are_told_though_the_choice_is_the_same():
    replay = held(signals([0.9, 0.8, 0.7, 0.3, 0.1]), signals([0.9, 0.8, 0.7, 0.3, 0.1], noise=1e-3))
    assert len(replay.faults) == 1 and replay.faults[0].startswith("features at projector differs by")
    assert not held(signals([0.9, 0.8, 0.7, 0.3, 0.1]), signals([0.9, 0.8, 0.7, 0.3, 0.1], noise=1e-6)).faults


def test_a_signal_that_is_lacking_is_told_though_the_choice_is_the_same():
    """Of those that a selector may do without; of any other its view says so itself."""
    given, notes, replay = signals([0.9, 0.8, 0.7, 0.3, 0.1]), [], Replay()
    needed = replace(step(best), needs=frozenset({"features", "norm_scale"}))
    scaled_too = replace(given, norm_scale=torch.ones(2)).only(needed.needs)
    noting([needed], notes, torch.float32)[0].select(scaled_too, 3)
    replaying([needed], notes, replay, torch.float32)[0].select(given.only(needed.needs), 3)
    assert replay.faults == ["norm_scale at projector differs by inf, 5.0e-05 may be rounding"]


def test_a_fingerprint_is_as_far_from_another_as_the_tensors_are():
    torch.manual_seed(0)
    one = torch.randn(3, 40, 20)
    for far in (1e-6, 1e-3, 0.1):
        distance = Fingerprint.of(one).distance(Fingerprint.of(one + far * torch.randn_like(one)))
        assert far / 2 < distance < 2 * far
    assert Fingerprint.of(one).distance(Fingerprint.of(one.transpose(1, 2))) == float("inf")
    assert Fingerprint.of(one).distance(Fingerprint.of(one.flip(1))) > 0.5
    hidden = one.clone()
    hidden[0, 0, 0] = float("nan")
    assert Fingerprint.of(one).distance(Fingerprint.of(hidden)) == float("inf")


def test_what_is_stored_is_read_again(tmp_path):
    made = regenerate(tmp_path, ("fastv", "visionzip"))
    results, log = read(tmp_path)
    assert log == made and log["limit"]["float32"] == LIMIT[torch.float32] and log["methods"] == ["fastv", "visionzip"]
    assert {"date", "processor", "instructions", "device", "versions", "code", "seconds"} <= set(log)
    for dtype in ("float32", "bfloat16"):
        found = check_against_reference(results, "cpu", dtype, ("fastv", "visionzip"))
        assert not found.differences and not found.ties
        assert found.figures["furthest_logits"] == 0 and found.figures["choices"] == (6 if dtype == "float32" else 2)


def test_the_stored_results_are_those_of_every_method_by_the_rules_of_today():
    results, log = read()
    assert {(one.method, one.dtype) for one in results.answers} == {(m, d) for m in METHODS for d in ("float32", "bfloat16")}
    names = {str(dtype).removeprefix("torch."): dtype for dtype in LIMIT}
    assert log["noise"] == {name: NOISE[dtype] for name, dtype in names.items()}
    assert log["limit"] == {name: LIMIT[dtype] for name, dtype in names.items()} and log["draws"] == DRAWS
    assert (FOLDER / RESULTS).stat().st_size < 2**20


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_results_that_cannot_be_read_are_refused(tmp_path, damage):
    raw = (FOLDER / RESULTS).read_bytes()
    if damage != "gone":
        (tmp_path / RESULTS).write_bytes(raw[: len(raw) // 2] if damage == "cut" else lzma.compress(b"x" * 100))
    (tmp_path / LOG).write_text("{}")
    with pytest.raises(RequestError, match=r"cannot be read .*; python -m harness\.run\.machine_check\.regenerate makes"):
        read(tmp_path)


def test_random_families_on_the_cpu_are_held_against_other_kernels_and_threads(monkeypatch):
    found = check_against_cpu("cpu", ("qwen3-vl",), ("fastv", "tome"))
    assert not found.differences and 0 < found.figures["furthest"] < found.figures["limit"]
    assert "there is no other device" in found.compared_with
    real = torch.nn.functional.scaled_dot_product_attention
    calls = []

    def wrong(*given, **named):  # of a kernel that one of the two sides runs
        calls.append(1)
        return real(*given, **named) * (1 if torch.backends.cuda.flash_sdp_enabled() else 1.001)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
    found = check_against_cpu("cpu", ("llava",), ("fastv", "none"))
    assert calls and len(found.differences) == 2 and all(line.startswith("llava, ") for line in found.differences)


@pytest.mark.usefixtures("few_pairs")
def test_the_whole_check_is_told_as_text_and_as_json():
    found = check_machine("cpu", ("fastv",), ("llava",), ("fastv",))
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["outcome"] == "equal" and told["differences"] == [] and told["machine"]["versions"]["torch"]
    names = [part["name"] for part in told["parts"]]
    assert names == [
        "methods in float32", "methods in bfloat16", "random families", "clocks", "attention in float32",
        "attention in bfloat16", "synchronisations",
    ]  # fmt: skip
    attention, clocks = told["parts"][4]["figures"], told["parts"][3]["figures"]
    assert attention["masked"] == 0 and attention["causal"] == 12 and len(attention["kernels"]) >= 4
    assert {one["kernel"] for one in attention["kernels"]} - {"unknown"}
    assert 0 < clocks["smallest_step_seconds"] < 1e-4 and 0.98 < clocks["wall_over_other_wall"] < 1.02
    text = found.as_text()
    assert "cannot be counted here: there is no device to wait for" in text
    assert text.splitlines()[-1].startswith("equal, 0 near ties")


@pytest.fixture
def few_pairs(monkeypatch):
    """The clocks' last figure, which decides nothing, of less work."""
    monkeypatch.setattr("harness.run.machine_check.clocks._PAIRS", 2)


@pytest.fixture
def quick(monkeypatch, few_pairs):
    """The command with little in every part."""
    few = partial(check_machine, methods=("divprune",), families=("llava",), family_methods=("fastv",))
    monkeypatch.setattr("harness.run.machine_check.check.check_machine", few)


@pytest.mark.usefixtures("quick")
def test_what_differs_is_printed_as_json_without_numbers_that_json_has_not(monkeypatch, capsys):
    no_number(monkeypatch)
    with pytest.raises(typer.Exit) as left:
        selfcheck("cpu", True)
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert left.value.exit_code == 1 and told["outcome"] == "different"
    assert told["differences"][0].startswith("methods in float32: divprune, question 1: features at projector differs by inf")
    assert told["parts"][0]["figures"]["furthest_signal"] is None


@pytest.mark.usefixtures("quick")
def test_a_part_that_fails_is_a_difference_and_the_others_are_checked(monkeypatch, capsys):
    def fails(name, device):
        raise RuntimeError("no kernel image is available\nfor this card")

    monkeypatch.setattr("harness.run.machine_check.against_cpu.adapter_of", fails)
    with pytest.raises(typer.Exit) as left:
        selfcheck("cpu", False)
    text = capsys.readouterr().out
    assert left.value.exit_code == 1 and text.count("different: ") == 2
    assert "random families: 1 differ" in text and "  different: fails (RuntimeError: no kernel image is available)" in text
    assert "methods in float32: equal" in text and "clocks: equal" in text


def test_a_mask_on_a_plain_prompt_is_a_difference(monkeypatch):
    from harness.engine.decoding import LayerSpan
    from harness.run.machine_check.attention_kernels import check_attention

    real = LayerSpan.starting.__func__

    def masked(cls, adapter, first_layer, layout, hidden):
        made = real(cls, adapter, first_layer, layout, hidden)
        length = hidden.shape[1]
        full = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        return replace(made, masks={name: full if mask is None else mask for name, mask in made.masks.items()})

    monkeypatch.setattr(LayerSpan, "starting", classmethod(masked))
    found = check_attention(ReferenceQuestions("cpu", "float32"))
    assert found.differences[0].startswith("12 layers of a prompt without padding are given a mask")


def test_a_wrong_device_is_a_wrong_request():
    device = "cuda:9"
    done = subprocess.run(
        [sys.executable, "-m", "harness", "selfcheck", "--device", device], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and done.stderr.startswith("error: --device ") and device in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_command_finds_this_machine_equal():
    done = subprocess.run([sys.executable, "-m", "harness", "selfcheck", "--json"], capture_output=True, text=True, timeout=900)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["outcome"] == "equal", told["differences"]
    assert told["parts"][0]["figures"]["methods"] == len(METHODS) and told["parts"][2]["figures"]["families"] == 10
