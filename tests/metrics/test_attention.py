from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from metrics.attention import attention_figures


def _slow(row: np.ndarray, evidence: np.ndarray, present: np.ndarray, top: int) -> dict[str, float]:
    """One row, token by token."""
    there = [i for i in range(len(row)) if present[i]]
    best = sorted(there, key=lambda i: (-row[i], i))[:top]
    nats = scipy.stats.entropy(row[there])
    return {
        "mass": sum(row[i] for i in there),
        "entropy": nats / np.log(len(there)) if len(there) > 1 else 1.0,
        "effective_support": np.exp(nats),
        "evidence_mass": sum(row[i] for i in there if evidence[i]) / sum(row[i] for i in there),
        "evidence_chance": np.mean([evidence[i] for i in there]),
        "evidence_top": sum(evidence[i] for i in best) / evidence.sum(),
    }


@pytest.mark.parametrize("seed", range(100))
def test_against_one_token_at_a_time(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 40))
    top = None if seed % 2 else int(rng.integers(1, count + 1))
    rows = rng.integers(1, 6, (4, count)) / 100.0 if seed % 3 else rng.random((4, count)) ** 4  # many ties, or none
    present, evidence = rng.random((4, count)) < 0.7, rng.random((4, count)) < 0.3
    present[:, int(rng.integers(count))] = evidence[:, int(rng.integers(count))] = True
    rows = rows * present
    found = attention_figures(torch.tensor(rows), torch.tensor(evidence), top, torch.tensor(present))
    for i in range(4):
        expected = _slow(rows[i], evidence[i], present[i], top or -(-count // 10))
        assert set(expected) == set(found)
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(value, abs=1e-12), name


def test_even_peaked_and_single():
    rows = torch.stack([torch.full((8,), 0.05), torch.tensor([0.4] + [0.0] * 7), torch.tensor([0.4] + [0.0] * 7)])
    present = torch.ones(3, 8, dtype=torch.bool)
    present[2, 1:] = False
    found = attention_figures(rows, None, present=present)
    assert found["mass"].tolist() == pytest.approx([0.4] * 3)
    assert found["entropy"].tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert found["effective_support"].tolist() == pytest.approx([8.0, 1.0, 1.0])
    assert all(found[name].isnan().all() for name in ("evidence_mass", "evidence_chance", "evidence_top"))


def test_no_mass_no_tokens_and_no_evidence():
    evidence = torch.tensor([[True, False, False], [True, False, False], [False, False, False]])
    present = torch.tensor([[True, True, True], [False, False, False], [True, True, True]])
    found = attention_figures(torch.tensor([[0.0] * 3, [0.0] * 3, [0.1] * 3]), evidence, 1, present)
    nan = {name: values.isnan().tolist() for name, values in found.items()}
    assert nan["mass"] == [False] * 3 and found["mass"].tolist() == pytest.approx([0.0, 0.0, 0.3])
    assert nan["entropy"] == nan["effective_support"] == [True, True, False]
    assert nan["evidence_mass"] == [True] * 3
    assert nan["evidence_chance"] == [False, True, True] and float(found["evidence_chance"][0]) == pytest.approx(1 / 3)
    assert nan["evidence_top"] == [False, False, True] and found["evidence_top"][:2].tolist() == [1.0, 0.0]
    empty = attention_figures(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
    assert empty["mass"].tolist() == [0.0, 0.0] and empty["entropy"].isnan().all() and empty["evidence_top"].isnan().all()
    assert attention_figures(torch.zeros(0, 5))["mass"].shape == (0,)


def test_absent_tokens_are_not_found_and_order_goes_with_the_tokens():
    rows, evidence = torch.tensor([[0.0, 0.0, 0.2, 0.1]]), torch.tensor([[True, False, False, True]])
    present = torch.tensor([[False, True, True, True]])
    assert float(attention_figures(rows, evidence, 4, present)["evidence_top"]) == 0.5
    order = [3, 0, 2, 1]
    one, other = (
        attention_figures(rows, evidence, 2, present),
        attention_figures(rows[:, order], evidence[:, order], 2, present[:, order]),
    )
    for name, values in one.items():
        assert torch.allclose(values, other[name]), name


def test_shapes_and_top_are_checked():
    with pytest.raises(ValueError, match="evidence"):
        attention_figures(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="present"):
        attention_figures(torch.zeros(2, 3), present=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="top is 4 of 3"):
        attention_figures(torch.zeros(2, 3), top=4)
