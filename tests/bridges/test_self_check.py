"""A pruned model, and the engine in lmms-eval, are held against ``generate`` before they answer."""

from __future__ import annotations

import copy

import pytest
import torch

from harness.bridges import checking
from harness.bridges.pruned import prune
from harness.models import probes
from harness.models.random_families.words import QUESTIONS
from harness.run import self_check as run_self_check
from tests.broken_engines import BROKEN
from tests.models import tiny_families as families


def slow_but(*names: str) -> list:
    """All families for ``parametrize``, with few of them in the quick tests."""
    return [
        pytest.param(*p.values, marks=[*p.marks, *([] if p.values[0] in names else [pytest.mark.slow])]) for p in families.PARAMS
    ]


@pytest.fixture
def fresh(script):
    """The embedded model, as nothing in this process has seen it."""
    return copy.deepcopy(script.model)


@pytest.fixture
def two(batch):
    """Two of the prompts."""
    return {name: value[:2] for name, value in batch.items()}


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Prompts of each check that is computed."""
    found, right = [], checking.self_check
    monkeypatch.setattr(run_self_check, "PATIENCE", 600.0)  # however slow this machine is
    monkeypatch.setattr(checking, "self_check", lambda adapter, ours, theirs: found.append(1) or right(adapter, ours, theirs))
    return found


def test_the_first_call_with_an_image_is_checked(fresh, script, two, computed, capsys):
    pruned = prune(fresh, "fastv", keep=192)
    blind = script.inputs([script.text("is there a red circle ?", 0)], [])
    pruned.generate(**blind, max_new_tokens=1)
    assert pruned.self_check is None and computed == []
    answers = [pruned.generate(**two, max_new_tokens=2, do_sample=False) for _ in range(2)]
    assert pruned.self_check.outcome == "equal" and pruned.self_check.prompts == 2 and len(computed) == 1
    assert torch.equal(*answers) and fresh.config._attn_implementation == probes.NAME
    again = prune(fresh, "sts", keep=64)
    again.generate(**two, max_new_tokens=1)
    assert again.self_check is pruned.self_check and len(computed) == 1, "once for a model"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_another_precision_is_checked_anew(fresh, two, computed):
    pruned = prune(fresh, "fastv", keep=192)
    pruned.generate(**two, max_new_tokens=1)
    pruned.to(torch.bfloat16).generate(**two, max_new_tokens=1)
    assert len(computed) == 2 and pruned.self_check.outcome == "equal" and "(bfloat16)" in pruned.self_check.said


@pytest.mark.parametrize("thing", BROKEN)
def test_an_engine_that_runs_the_model_wrong_answers_nothing(thing, monkeypatch):
    config, processor = families.FAMILIES["llava"]
    family = families.Family("llava", type("", (), {"processor": processor()}))
    model, inputs = families.build(config()), family.inputs(QUESTIONS[0], [families.picture(32, 32, 1)])
    pruned = prune(model, "divprune", keep=4)
    assert pruned.generate(**inputs, max_new_tokens=2).shape[0] == 1, "it is run right before"
    BROKEN[thing](monkeypatch)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"without pruning the engine differs from generate of transformers: .*self_check=False"
        ) as caught:
            pruned.generate(**inputs, max_new_tokens=2)
        assert len(str(caught.value).splitlines()) == 1
    trusted = prune(model, "divprune", keep=4, self_check=False)
    assert trusted.generate(**inputs, max_new_tokens=2).shape[0] == 1 and trusted.self_check is None


def test_a_reference_that_fails_is_a_sentence(fresh, two, computed, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(type(fresh), "generate", lambda self, **words: 1 / 0)
        pruned = prune(fresh, "fastv", keep=192)
        assert pruned.generate(**two, max_new_tokens=1).shape[0] == 2
    said = "generate of transformers failed (ZeroDivisionError: division by zero), so the engine was not checked against it"
    assert capsys.readouterr().err == f"note: {said}\n"
    assert pruned.self_check.outcome == "failed" and pruned.self_check.said == said


@pytest.mark.parametrize("name", slow_but("smolvlm"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prompts_of_every_family_are_checked(name, dtype):
    config, processor = families.FAMILIES[name]
    family = families.Family(name, type("", (), {"processor": processor()}))
    model = families.build(config()).to(dtype)
    for images in ([families.picture(60, 30, 2)], [families.picture(32, 32, 1), families.picture(60, 30, 2)]):
        inputs = family.inputs(QUESTIONS[1], images)
        checking._known.pop(model, None)
        pruned = prune(model, "none", processor=family.adapter.processor)
        pruned.generate(**inputs, max_new_tokens=1)
        assert pruned.self_check.outcome == "equal", pruned.self_check.said


@pytest.mark.differential
def test_lmms_eval_is_not_given_a_model_that_is_run_wrong(adapter, monkeypatch, tmp_path):
    pytest.importorskip("lmms_eval")
    from harness.bridges.lmms_eval import Prunescope
    from harness.models import hf

    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(hf, "load", lambda *given, **words: adapter)
    assert Prunescope(method="sts", keep=64, device="cpu").self_check.outcome == "equal"
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "another"))
    BROKEN["layer"](monkeypatch)
    with pytest.raises(ValueError, match=r"differs from generate of transformers: .*self_check=False"):
        Prunescope(method="sts", keep=64, device="cpu")
    assert Prunescope(method="sts", keep=64, device="cpu", self_check=False).self_check.outcome == "off"
