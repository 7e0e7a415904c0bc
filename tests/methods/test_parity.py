"""What golden files hold beside the kept tokens: raters, scores, counts, and of what each merged token is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from methods import dart, holov, sparsevlm, visionzip, vispruner
from tests.methods import golden

WIDE = [path for path in golden.paths("holov") if golden.named(path)["n"] == 576]


def cases(*files: str):
    paths = [path for name in files for path in golden.paths(name)]
    assert paths, f"no goldens for {files}"
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@cases("sparsevlm", "sparsevlm2h28", "sparsevlm2h32")
def test_sparsevlm_raters(path: Path) -> None:
    signals, expected = golden.signals(path), golden.outputs(path)
    rated = sparsevlm.raters(signals.features, signals.text_features)[0]
    assert rated.nonzero()[:, 0].tolist() == sorted(expected["raters"].tolist())


@cases("sparsevlm")
def test_sparsevlm_recycles_as_many(path: Path) -> None:
    expected = golden.outputs(path)
    dropped = golden.named(path)["n"] - len(expected["kept"])
    assert sparsevlm.candidates(dropped) == len(expected["recycled"])
    assert sparsevlm.clusters(sparsevlm.candidates(dropped)) == len(expected["merged"])


@cases("sparsevlm2h28", "sparsevlm2h32")
def test_sparsevlm_two_scores(path: Path) -> None:
    """Theirs are divided by the root of a head's width too, 128 in these files."""
    signals, expected = golden.signals(path), golden.outputs(path)
    scores = sparsevlm.SparseVLMSelector("2", False, int(expected["heads_kept"]))(signals, 9).scores
    np.testing.assert_allclose(scores[0].numpy() / 128**0.5, expected["scores"], rtol=1e-5)


def test_sparsevlm_two_listens_to_all_heads_of_a_model_that_has_fewer() -> None:
    signals = golden.signals(golden.paths("sparsevlm2h28")[0])
    kept = [sparsevlm.SparseVLMSelector("2", False, heads)(signals, 9).indices.tolist() for heads in (28, 99)]
    assert kept[0] == kept[1]


@cases("dart")
def test_dart_published_counts_leave_the_pivots_out(path: Path) -> None:
    expected = golden.outputs(path)
    image, pivots = int(expected["image_pivots"]), int(expected["image_pivots"] + expected["text_pivots"])
    more = int(expected["max_num_trunction"]) // pivots * pivots
    kept = dart.DARTSelector(image, pivots - image)(golden.signals(path), golden.named(path)["k"]).indices[0]
    assert len(kept) == image + more


@cases("visionzip")
def test_visionzip_makes_every_token_part_of_one(path: Path) -> None:
    signals, expected = golden.signals(path), golden.outputs(path)
    result = visionzip.VisionZipSelector(True)(signals, len(expected["tokens"]))
    places = result.indices[0]
    assert places[0] == -1 and int((places[1:] < 0).sum()) == int(expected["contextual_num"])
    assert result.source[0, 1:].sum(0).tolist() == [1] * signals.count


@cases("vispruner", "visprunerr25", "visprunerr75")
def test_vispruner_keeps_the_most_attended_first(path: Path) -> None:
    signals, expected = golden.signals(path), golden.outputs(path)
    first = int(len(expected["kept"]) * float(expected["important_ratio"]))
    kept = vispruner.VisPrunerSelector(float(expected["important_ratio"]))(signals, len(expected["kept"])).indices[0]
    attention = signals.cls_attention[0].mean(0)
    assert attention[kept[:first]].min() >= attention[kept[first:]].max()


def test_holov_rules_differ_by_as_much_as_its_docstring_says() -> None:
    """On the golden inputs of 576 tokens, which rank by attention alone in the authors' code."""
    overlaps = []
    for path in WIDE:
        both = [holov.HoloVSelector(16, variety)(golden.signals(path), golden.named(path)["k"]) for variety in (0.09, None)]
        overlaps.append(golden.overlap(both[0].indices, both[1].indices))
    assert len(overlaps) == 4 and f"by {np.mean(overlaps):.2f} (mean Jaccard)" in holov.HoloV.__doc__


@pytest.mark.parametrize("path", WIDE, ids=lambda path: path.stem)
def test_holov_shares_do_not_depend_on_variety(path: Path) -> None:
    """Because variance is scaled to attention crop by crop: as many of each crop stay, whatever its weight."""
    signals, keep = golden.signals(path), golden.named(path)["k"]
    kept = [holov.HoloVSelector(16, variety)(signals, keep).indices[0] for variety in (0.09, 1.0, None)]
    counts = [torch.bincount(places // (576 // 16), minlength=16).tolist() for places in kept]
    assert counts[0] == counts[1] == counts[2]
