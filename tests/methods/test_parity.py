"""Our selections against outputs of the authors' own code (tests/data/goldens)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods import fastv, sparsevlm, tome
from methods.types import Signals

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"


def cases(method: str):
    paths = sorted(GOLDENS.glob(f"{method}_*.npz"))
    assert paths, f"no goldens for {method}"
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


def load(path: Path):
    data = dict(np.load(path))
    tensors = {k: torch.from_numpy(v)[None] for k, v in data.items() if not k.startswith("out_") and k != "grid"}
    count = int(np.prod(data["grid"]))
    return Signals(**tensors, count=count, grid=tuple(data["grid"].tolist())), {
        k[4:]: v for k, v in data.items() if k.startswith("out_")
    }


@cases("fastv")
def test_fastv(path):
    signals, expected = load(path)
    got = fastv.select(signals, len(expected["kept"])).indices[0]
    assert set(got.tolist()) == set(expected["kept"].tolist())


@cases("sparsevlm")
def test_sparsevlm(path):
    signals, expected = load(path)
    keep = len(expected["kept"])
    rated = sparsevlm.raters(signals.features, signals.text_features)[0]
    assert rated.nonzero()[:, 0].tolist() == sorted(expected["raters"].tolist())
    result = sparsevlm.Select(True)(signals, keep)
    assert result.indices[0, :keep].tolist() == sorted(expected["kept"].tolist())
    assert (result.indices[0, keep:] == -1).all()
    merged = result.tokens[0, keep:].numpy()
    assert merged.shape == expected["merged"].shape
    order = lambda rows: rows[np.lexsort(rows.round(4).T)]
    np.testing.assert_allclose(order(merged), order(expected["merged"]), atol=1e-5)
    assert sparsevlm.candidates(signals.count - keep) == len(expected["recycled"])


@cases("tome")
def test_tome(path):
    signals, expected = load(path)
    signals = Signals(
        vision_features=signals.vision_features,
        vision_keys=signals.vision_keys,
        sizes=torch.ones(1, signals.count),
        count=signals.count,
    )
    result = tome.Merge(0)(signals, signals.count - int(expected["r"]))
    order = np.argsort(expected["source"].argmax(1))
    np.testing.assert_array_equal(result.source[0].numpy(), expected["source"][order].astype(bool))
    np.testing.assert_allclose(result.sizes[0].numpy(), expected["sizes"][order].ravel())
    np.testing.assert_allclose(result.tokens[0].numpy(), expected["tokens"][order], atol=1e-5)
