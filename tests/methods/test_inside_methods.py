"""Methods that act inside the model against outputs of their authors' code, and against slow versions of their rules."""

import dataclasses
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import apet, feather, flowcut, ivcprune, mustdrop, v2drop, vscan
from methods.check import random_signals
from methods.registry import MethodError, create
from methods.schedule import plan
from methods.types import Budget, BudgetError, ModelShape, Signals, TowerRead, decoder, vision

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
LLAVA = ModelShape(
    "llava-1.5-7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064, tower_blocks=24
)


def cases(method):
    paths = sorted(GOLDENS.glob(f"{method}_*.npz"))
    assert paths, f"no goldens for {method}"
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


def load(path, dtype=torch.float32):
    """A file's signals with a batch axis, in a type, and what the authors' code gave."""
    data = dict(np.load(path))
    tensors = {k: torch.from_numpy(v)[None].to(dtype) for k, v in data.items() if not k.startswith("out_") and k != "grid"}
    signals = Signals(**tensors, count=int(np.prod(data["grid"])), grid=tuple(data["grid"].tolist()))
    return signals, {k[4:]: v for k, v in data.items() if k.startswith("out_")}


def kept(selection):
    return set(selection.indices[0].tolist())


def whole(signals, selection):
    """Whether a merger's sizes and sources tell the same, and its places are those of a merger that keeps places."""
    assert torch.equal(selection.source.sum(-1), selection.sizes.long())
    assert selection.source.shape == (*selection.indices.shape, signals.count)


@cases("vscan")
def test_vscan(path):
    signals, expected = load(path)
    asked, scan = int(expected["asked"]), vscan.Scan(True, int(expected["window"]))
    got = scan(signals, asked)
    assert scan.local(signals.cls_attention_early.mean(1), asked, signals.grid)[0].tolist() == expected["local"].tolist()
    assert got.indices[0].tolist() == expected["kept"].tolist()
    assert scan.after(asked, signals.grid) == len(expected["kept"])
    np.testing.assert_allclose(got.tokens[0].numpy(), expected["tokens"], atol=1e-4)
    whole(signals, got)


@cases("vscan-nocls")
def test_vscan_without_cls(path):
    signals, expected = load(path)
    keep, scan = len(expected["kept"]), vscan.Scan(False, int(expected["window"]))
    got = scan(signals, keep)
    assert scan.local(signals.received_attention_early.mean(1), keep, signals.grid)[0].tolist() == expected["local"].tolist()
    assert got.indices[0].tolist() == expected["kept"].tolist() and scan.after(keep, signals.grid) == keep
    np.testing.assert_allclose(got.tokens[0].numpy(), expected["tokens"], atol=1e-4)
    whole(signals, got)


@cases("pyramiddrop")
def test_vscan_in_the_llm_ranks_as_pyramiddrop_does(path):
    data = np.load(path)
    rows, expected = torch.from_numpy(data["text_attention_ahead"])[None], {"kept": data["out_kept"]}
    signals = Signals(text_attention_ahead=rows, count=rows.shape[-1])
    assert kept(vscan.by_last_word(signals, len(expected["kept"]))) == set(expected["kept"].tolist())


@cases("mustdrop-merge")
def test_mustdrop_merges(path):
    signals, expected = load(path)
    got = mustdrop.merge(signals, signals.count)
    tokens = torch.cat([signals.cls_feature_first[:, None], got.tokens], 1)[0]
    np.testing.assert_allclose(tokens.numpy(), expected["tokens"], atol=1e-4)
    assert got.sizes[0].tolist() == expected["sizes"][1:].tolist()
    assert int((got.sizes > 1).sum()) == int(expected["windows"])
    assert got.indices[0].tolist() == got.source[0].long().argmax(-1).tolist()
    assert sorted(got.indices[0].tolist()) == sorted(expected["source_first"].tolist())
    whole(signals, got)


@cases("mustdrop-filter")
def test_mustdrop_filters(path):
    signals, expected = load(path)
    levels = float(expected["global_thr"]), float(expected["individual_thr"])
    got = mustdrop.Filter(*levels, True)(signals, signals.count)
    assert kept(got) == set(expected["kept"].tolist())
    key = got.indices[0][got.carry[0]].tolist()
    assert key == sorted(expected["key_set"].tolist())
    nobody = torch.zeros(1, signals.count, dtype=torch.bool)
    later = Signals(text_attention=signals.text_attention, carry=nobody, count=signals.count)
    assert kept(mustdrop.Filter(*levels, False)(later, signals.count)) == set(expected["important"].tolist())


@pytest.mark.parametrize("space", ["tower", "llm"])
@pytest.mark.parametrize("kind", ["gauss", "blobs"])
def test_there_are_goldens_of_apet(space, kind):
    assert list(GOLDENS.glob(f"apet{'-llm' if space == 'llm' else ''}_{kind}_*"))


def apet_case(path, space):
    signals, expected = load(path)
    given_ = signals.vision_features if space == "tower" else signals.hidden_states
    number, keep = int(expected["basis_num"]), len(expected["kept"])
    basis, products = apet.farthest(given_, torch.tensor([int(expected["start"])]), number)
    if "basis" in expected:
        assert basis[0].tolist() == expected["basis"].tolist()
    order = apet.errors(given_, basis, products)[0].argsort(descending=True, stable=True)[:keep]
    assert order.tolist() == expected["by_error"].tolist()
    got = apet.Reconstruction(space, number, int(expected["start"]))(signals, keep)
    assert got.indices[0].tolist() == expected["kept"].tolist()
    np.testing.assert_allclose(got.tokens[0].numpy(), expected["tokens"], rtol=1e-3, atol=1e-5)
    whole(signals, got)


@cases("apet")
def test_apet(path):
    apet_case(path, "tower")


@cases("apet-llm")
def test_apet_in_the_llm(path):
    apet_case(path, "llm")


@cases("flowcut-l[0-9]*t*")
def test_flowcut(path):
    signals, expected = load(path)
    target, left = int(expected["target"]), int(expected["layers_left"])
    assert flowcut.leaving(signals.cls_attention.mean(1), left, target) == int(expected["prune_num"])
    got = flowcut.Cut(left)(signals, target)
    assert kept(got) == set(expected["kept"].tolist())
    np.testing.assert_allclose(got.carry[0].numpy(), expected["carry"], rtol=1e-4)
    np.testing.assert_allclose(flowcut.Cut(left).flow(signals)[1][0].numpy(), expected["scores"], rtol=1e-4)


@cases("flowcut-llm")
def test_flowcut_in_the_llm(path):
    signals, expected = load(path)
    got = flowcut.InLLM(int(expected["heads"]))(signals, len(expected["kept"]))
    assert kept(got) == set(expected["kept"].tolist())


@cases("v2drop")
def test_v2drop(path):
    signals, expected = load(path)
    assert kept(v2drop.select(signals, len(expected["kept"]))) == set(expected["kept"].tolist())


@pytest.mark.parametrize("given_angles", [False, True])
@cases("ivcprune")
def test_ivcprune(path, given_angles):
    signals, expected = load(path)
    selector = ivcprune.IVCSelector(int(expected["heads"]))
    angles = ivcprune.rotary(signals)
    if given_angles:
        signals = Signals(**{**vars(signals), "rotary_mean": angles})
    else:
        top = ivcprune.shares(signals.count)[2]
        places = {i for part in angles[0].T for i in part.argsort(descending=True, stable=True)[:top].tolist()}
        assert places == set(expected["coordinates"].tolist())
    scores = selector.by_value(signals)[0]
    number = ivcprune.shares(signals.count)[1]
    assert set(scores.argsort(descending=True, stable=True)[:number].tolist()) == set(expected["by_value"].tolist())
    assert kept(selector(signals, signals.count)) == set(expected["kept"].tolist())


@cases("feather*")
def test_feather(path):
    signals, expected = load(path)
    first = bool(expected["stride"])
    share = 1 - 0.7
    selector = feather.FeatherSelector(int(expected["heads"]), share if first else share**2, first)
    np.testing.assert_allclose(selector.scores(signals)[0].numpy(), expected["scores"], rtol=1e-4)
    assert kept(selector(signals, signals.count)) == set(expected["kept"].tolist())


# against slow versions, one token at a time

seeds = st.integers(0, 10**6)
QUICK = settings(max_examples=20, deadline=None)


def cos(a, b):
    return float(np.dot(a, b) / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12))


def drawn(seed, count=36, grid=None, **parts):
    signals = random_signals(2, count, seed=seed)
    return Signals(**{**vars(signals), "grid": grid or signals.grid, **parts})


def best(scores, number, among=None):
    """The places of the highest scores, the lower one first where two are equal."""
    return sorted(range(len(scores)) if among is None else among, key=lambda i: (-scores[i], i))[:number]


def merged(tokens, own, others):
    """Each of ``own`` as the mean of itself and those of ``others`` that are most similar to it."""
    groups = {i: [i] for i in own}
    for j in others:
        groups[max(own, key=lambda i: (round(cos(tokens[j], tokens[i]), 6), -i))].append(j)
    return {i: tokens[group].mean(0) for i, group in groups.items()}, groups


def slow_windows(grid, side):
    """The tokens of each window, in row-major order."""
    side = min(side, *grid)
    down, across = grid[0] // side, grid[1] // side
    found = [[] for _ in range(down * across)]
    for row in range(grid[0]):
        for column in range(grid[1]):
            found[min(row // side, down - 1) * across + min(column // side, across - 1)].append(row * grid[1] + column)
    return found


@QUICK
@given(seed=seeds, share=st.floats(0.03, 1), height=st.integers(2, 7), width=st.integers(2, 7), side=st.integers(1, 4),
       by_cls=st.booleans(), fills=st.booleans())  # fmt: skip
def test_vscan_before_the_llm(seed, share, height, width, side, by_cls, fills):
    count, grid = height * width, (height, width)
    keep = max(1, round(share * count))
    signals = drawn(seed, count, grid)
    scan = vscan.Scan(by_cls, side, fills)
    got = scan(signals, keep)
    deep = signals.cls_attention if by_cls else signals.received_attention
    early = signals.cls_attention_early if by_cls else signals.received_attention_early
    for row in range(2):
        first, last = early[row].mean(0).tolist(), deep[row].mean(0).tolist()
        regions, local = slow_windows(grid, side), []
        if by_cls:
            for region in regions:
                local += best(first, keep // 2 // len(regions), region)
        else:
            room = {i: ceil((keep // 2) / len(regions)) for i in range(len(regions))}
            late = []
            for token in best(first, count):
                region = next(i for i, tokens in enumerate(regions) if token in tokens)
                (local if room[region] > 0 else late).append(token)
                room[region] -= 1
            local = (local + late)[: keep // 2]
        more = keep - (len(local) if fills else keep // 2)
        places = sorted(local + best(last, more, [i for i in range(count) if i not in local]))
        assert got.indices[row].tolist() == places and len(places) == scan.after(keep, grid)
        tokens, groups = merged(signals.features[row].numpy(), places, [i for i in range(count) if i not in places])
        np.testing.assert_allclose(got.tokens[row].numpy(), [tokens[i] for i in places], atol=1e-5)
        assert [part.nonzero()[:, 0].tolist() for part in got.source[row]] == [sorted(groups[i]) for i in places]
        assert got.sizes[row].tolist() == [len(groups[i]) for i in places]


def test_vscan_without_rotary_embedding_takes_its_own_rows():
    signals = drawn(3)
    rows = signals.text_attention_ahead_unrotated[:, :, -1].mean(1)
    assert vscan.by_last_word_unrotated(signals, 7).indices.tolist() == [best(row.tolist(), 7) for row in rows]
    assert vscan.by_last_word(signals, 7).indices.tolist() != vscan.by_last_word_unrotated(signals, 7).indices.tolist()


@QUICK
@given(
    seed=seeds,
    share=st.floats(0.03, 1),
    number=st.integers(1, 12),
    start=st.integers(0, 23),
    space=st.sampled_from(["tower", "llm"]),
)
def test_apet_slowly(seed, share, number, start, space):
    count = 24
    keep = max(1, round(share * count))
    signals = drawn(seed, count)
    got = apet.Reconstruction(space, number, start)(signals, keep)
    given_ = signals.vision_features if space == "tower" else signals.hidden_states
    for row in range(2):
        tokens = given_[row].double().numpy()
        basis = [start]
        while len(basis) < number:
            near = [min(((tokens[i] - tokens[j]) ** 2).sum() for j in basis) for i in range(count)]
            basis.append(best(near, 1, [i for i in range(count) if i not in basis])[0])
        own = tokens[basis]
        weights = np.linalg.solve(own @ own.T + 1e-5 * np.eye(number), own @ tokens.T)
        order = best([round(e, 5) for e in np.linalg.norm(tokens - weights.T @ own, axis=1)], count)
        swapped = min(number, keep - 1)
        whole_, places = order[: keep - swapped], order[keep - swapped : keep]
        if space == "tower":
            places.sort()
        expected, groups = merged(tokens, whole_, order[keep:])
        expected |= {place: tokens[token] for place, token in zip(places, basis)}
        assert got.indices[row].tolist() == sorted(order[:keep])
        np.testing.assert_allclose(got.tokens[row].numpy(), [expected[i] for i in sorted(expected)], atol=1e-4)
        sources = groups | {place: [token] for place, token in zip(places, basis)}
        assert [part.nonzero()[:, 0].tolist() for part in got.source[row]] == [sorted(sources[i]) for i in sorted(sources)]


def test_apet_starts_where_the_stream_of_its_row_says():
    signals = drawn(5)
    whole_ = apet.Reconstruction("tower", 4, -1)(signals, 12)
    for row in range(2):
        one = {n: v[row : row + 1] if torch.is_tensor(v) else v for n, v in vars(signals).items()}
        alone = apet.Reconstruction("tower", 4, -1)(Signals(**{**one, "batch": 1}), 12)
        assert torch.equal(alone.indices[0], whole_.indices[row])
    starts = {int(apet.Reconstruction(space, 4, -1)._first(Signals(seeds=torch.tensor([seed]), count=576)))
              for seed in range(8) for space in ("tower", "llm")}  # fmt: skip
    assert len(starts) > 8


def test_apet_samples_equal_tokens_by_rising_index_and_none_twice():
    tokens = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 1)
    basis, products = apet.farthest(tokens, torch.tensor([5]), 6)
    assert basis[0, :3].sort().values.tolist() == [0, 5, 8] and basis[0, 3:].tolist() == [1, 2, 3]
    assert apet.errors(tokens, basis, products).isfinite().all()


@QUICK
@given(seed=seeds, height=st.integers(3, 8), width=st.integers(3, 8), noise=st.floats(0.05, 1.5))
def test_mustdrop_merges_slowly(seed, height, width, noise):
    """Windows repeat one token each, under noise that lets some of them pass."""
    g = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height) // 3, torch.arange(width) // 3
    bases = torch.randn(20, 20, 12, generator=g)[rows[:, None], columns]
    per = noise * torch.rand(20, 20, 1, generator=g)[rows[:, None], columns]
    tokens = (bases + per * torch.randn(bases.shape, generator=g)).view(1, -1, 12)
    signals = Signals(vision_features_first=tokens, count=height * width, grid=(height, width))
    got, values = mustdrop.merge(signals, signals.count), tokens[0].double().numpy()
    likeness = {}
    for top in range(0, height - 2, 3):
        for left in range(0, width - 2, 3):
            window = [(top + i) * width + left + j for i in range(3) for j in range(3)]
            alike = np.mean([cos(values[a], values[b]) for a in window for b in window if a != b])
            if alike >= 0.8:
                likeness[tuple(window)] = alike
    order = sorted(likeness, key=lambda window: -likeness[window])
    gone = {token for window in order for token in window}
    rest = [i for i in range(height * width) if i not in gone]
    assert got.indices[0].tolist() == [window[0] for window in order] + rest
    expected = [values[list(window)].mean(0) for window in order] + [values[i] for i in rest]
    np.testing.assert_allclose(got.tokens[0].numpy(), expected, atol=1e-5)
    assert got.sizes[0].tolist() == [9] * len(order) + [1] * len(rest)
    whole(signals, got)


@QUICK
@given(seed=seeds, total=st.floats(0, 0.06), single=st.floats(0, 0.2))
def test_mustdrop_filters_slowly(seed, total, single):
    signals = drawn(seed)
    one = {n: v[:1] if torch.is_tensor(v) else v for n, v in vars(signals).items()}
    got = mustdrop.Filter(total, single, True)(Signals(**{**one, "batch": 1}), 36)
    attention = signals.text_attention[0].double().mean(0).numpy()
    everything, key = attention.sum(), best(signals.cls_attention_last[0].mean(0).tolist(), ceil(0.08 * 36))
    stays = [j for j in range(36) if attention[:, j].sum() >= total * everything or attention[:, j].max() >= single or j in key]
    assert got.indices[0].tolist() == stays
    assert got.indices[0][got.carry[0]].tolist() == sorted(key)


def entropy_of(share):
    return -sum(p * np.log(p) for p in share if p > 0)


@QUICK
@given(seed=seeds, left=st.integers(0, 9).map(lambda half: 2 * half), target=st.integers(1, 35), carried=st.booleans())
def test_flowcut_slowly(seed, left, target, carried):
    signals = drawn(seed)
    one = {n: v[:1].double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in vars(signals).items()}
    carry = torch.rand(1, 36, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) if carried else None
    got = flowcut.Cut(left)(Signals(**{**one, "batch": 1, "carry": carry}), target)
    attention = one["cls_attention"][0].mean(0).numpy()
    values, own = one["vision_values_full"][0].numpy().reshape(36, 2, -1), one["cls_value_full"][0].numpy().reshape(2, -1)
    likeness = np.zeros(36)
    for head in range(2):
        products = np.array([own[head] @ own[head], *(own[head] @ values[j, head] for j in range(36))])
        products = np.exp(products - products.max())
        likeness += products[1:] / products.sum() / 2
    scores = (attention / attention.sum() + likeness / likeness.sum()) * np.abs(values.mean(1)).sum(-1)
    scores = scores if carry is None else 0.5 * carry[0].numpy() + 0.5 * scores
    leaves = 36
    if left:
        even = entropy_of(attention / attention.sum()) / np.log(36)
        leaves = round((36 - target) / left**0.5 * (1 - even**2))
    places = sorted(best(scores.tolist(), max(36 - leaves, target)))
    assert got.indices[0].tolist() == places
    np.testing.assert_allclose(got.carry[0].numpy(), scores[places], rtol=1e-9)


def test_flowcut_carries_from_block_to_block_and_ends_at_the_budget():
    """Every block scores, also those that do not prune; once the target is reached, nothing happens."""
    steps = create("flowcut").steps(LLAVA, Budget(64))
    assert [step.site for step in steps] == [vision(block) for block in range(22)]
    assert [step.select.left for step in steps] == list(range(21, -1, -1))
    present, carry, counts = torch.arange(576), None, []
    for step in steps:
        drawn_ = drawn(step.site.layer, 576)
        parts = {name: getattr(drawn_, name)[:1] for name in ("cls_attention", "vision_values_full", "cls_value_full")}
        cut = {"cls_value_full": parts["cls_value_full"], "cls_attention": parts["cls_attention"][..., present],
               "vision_values_full": parts["vision_values_full"][:, present]}  # fmt: skip
        signals = Signals(**cut, carry=carry, count=len(present))
        own = step.select.flow(signals)[1]
        expected = own if carry is None else 0.5 * carry + 0.5 * own
        got = step.select(signals.only(step.needs), step.keep)
        torch.testing.assert_close(got.carry, expected.gather(1, got.indices))
        assert step.select.left % 2 == 0 or got.indices.shape[1] == len(present)
        present, carry = present[got.indices[0]], got.carry
        counts.append(len(present))
    assert counts[-1] == 64 and counts[0] == 576 and counts[1] < 576 and counts == sorted(counts, reverse=True)
    done = flowcut.Cut(2)(Signals(carry=carry, cls_attention=torch.rand(1, 2, 64), count=64), 64)
    assert done.indices[0].tolist() == list(range(64)) and done.carry is carry


def test_flowcut_counts_an_attention_of_nothing_as_no_information():
    attention = torch.zeros(1, 36)
    attention[0, 3] = 1.0
    assert flowcut.leaving(attention, 4, 10) == 13
    assert flowcut.leaving(torch.full((1, 36), 0.1), 4, 10) == 0


@QUICK
@given(seed=seeds, keep=st.integers(1, 36))
def test_flowcut_in_the_llm_slowly(seed, keep):
    signals = drawn(seed)
    got = flowcut.InLLM(2)(signals, keep).indices
    for row in range(2):
        rows = signals.text_attention[row, :, -1].double().numpy()
        attention = (rows / rows.sum(-1, keepdims=True)).mean(0)
        values = signals.values_full[row].double().numpy().reshape(36, 2, -1)
        own = signals.text_values_full[row, -1].double().numpy().reshape(2, -1)
        products = np.exp(np.einsum("nhd,hd->hn", values, own) / values.shape[-1] ** 0.5)
        likeness = (products / products.sum(-1, keepdims=True)).mean(0)
        scores = (attention / attention.sum() + likeness / likeness.sum()) * np.abs(values.mean(1)).sum(-1)
        assert got[row].tolist() == best(scores.round(9).tolist(), keep)


@QUICK
@given(seed=seeds, keep=st.integers(1, 36))
def test_v2drop_slowly(seed, keep):
    signals = drawn(seed)
    changed = (signals.hidden_states - signals.hidden_states_before).double().norm(dim=-1)
    assert v2drop.select(signals, keep).indices.tolist() == [best(row, keep) for row in changed.tolist()]


def slow_ivc(image, text, system, angles, heads):
    tokens = np.concatenate([system, image, text]).astype(np.float64)
    parts = tokens.reshape(len(tokens), heads, -1)
    weights = np.exp(np.einsum("ihd,jhd->hij", parts, parts) / parts.shape[-1] ** 0.5)
    weights = (weights / weights.sum(-1, keepdims=True)).mean(0)
    own = slice(len(system), len(system) + len(image))
    rows = [weights[i, own] for i in range(own.stop + 2, len(tokens))]
    seeds_ = best(np.mean(rows, 0).tolist(), max(1, round(0.01 * len(image))))
    rows += [weights[len(system) + i, own] for i in seeds_]
    places = set(best(np.mean(rows, 0).tolist(), round(0.2 * len(image))))
    for part in angles.T:
        places |= set(best(part.tolist(), round(0.05 * len(image))))
    return sorted(places)


@QUICK
@given(seed=seeds, given_angles=st.booleans(), count=st.sampled_from([10, 36, 144]))
def test_ivcprune_slowly(seed, given_angles, count):
    signals = drawn(seed, count)
    one = {n: v[:1] if torch.is_tensor(v) else v for n, v in vars(signals).items()}
    angles = torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed)) if given_angles else None
    signals = Signals(**{**one, "batch": 1, "rotary_mean": angles})
    got = ivcprune.IVCSelector(2)(signals, 0).indices[0].tolist()
    turns = np.array([[t * 10000 ** (-2 * i / 128) for i in range(64)] for t in range(3, 3 + count)])
    table = angles[0].double().numpy() if given_angles else np.stack([np.cos(turns).mean(1), np.sin(turns).mean(1)], 1)
    parts = (signals.values_full, signals.text_values_full, signals.system_values_full)
    assert got == slow_ivc(*(part[0].numpy() for part in parts), table, 2)


@QUICK
@given(seed=seeds, count=st.integers(1, 60), even=st.booleans(), groups=st.sampled_from([1, 2]))
def test_feather_slowly(seed, count, even, groups):
    signals = drawn(seed, count, (1, count))
    queries = torch.randn(1, 5, 16 * groups, generator=torch.Generator().manual_seed(seed))
    one = Signals(keys_unrotated=signals.keys_unrotated[:1], text_queries_unrotated=queries, count=count)
    share = (1 - 0.7) ** (1 if even else 2)
    got = feather.FeatherSelector(2, share, even)(one, 0).indices[0].tolist()
    keys, last = one.keys_unrotated[0].double().numpy(), queries[0, -1].double().numpy()
    scores = np.zeros(count)
    for head in range(2 * groups):
        kv = head // groups
        products = np.exp(keys[:, kv * 8 : kv * 8 + 8] @ last[head * 8 : head * 8 + 8] / 8**0.5)
        scores += products / products.sum() / (2 * groups)
    places = set(best(scores.tolist(), max(1, int(count * share))))
    side = int(count**0.5)
    places |= {r * side + c for r in range(side) for c in range(side) if r % 3 == 0 and c % 3 == 0 and even}
    assert got == sorted(places)


# plans

TILES = ModelShape(
    "llava-next-7b", 2880, (48, 60), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064, tiles=5,
    tile_tokens=576, tower_blocks=24,
)  # fmt: skip
QWEN = ModelShape(
    "qwen", 256, (16, 16), 32, 1280, 16, 3420, False, 14, 28, 3584, 28, 4, 128, 18944, True, 152064, merge=4, window=64,
    global_blocks=(7, 15, 23, 31), tower_blocks=32,
)  # fmt: skip


@pytest.mark.parametrize("method", ["vscan", "apet"])
@pytest.mark.parametrize(("budget", "counts"), [(64, (96, 32)), (128, (192, 64)), (192, (288, 96))])
def test_three_to_one_meets_the_authors_averages(method, budget, counts):
    steps, schedule = plan(create(method), LLAVA, Budget(budget))
    assert [step.after for step in steps] == list(counts) and schedule.average == budget
    assert steps[1].site == decoder(16)


def test_vscan_asks_for_as_many_as_leave_the_budget():
    """100 asked leave 98, as in the authors' code; to leave 100, 104 are asked for."""
    (step,) = create("vscan[stages=vision]").steps(LLAVA, Budget(100))
    assert (step.keep, step.after) == (104, 100) and vscan.Scan(True, 6).after(100, (24, 24)) == 98


def test_early_blocks_and_layers_of_towers():
    reads = lambda expression, shape: create(expression).steps(shape, Budget(64))[0].tower_reads
    assert TowerRead("cls_attention_early", 5) in reads("vscan", LLAVA)
    assert TowerRead("received_attention_early", 7) in reads("vscan[score=received]", QWEN)
    steps = create("vscan[score=received]").steps(QWEN, Budget(64))
    assert steps[1].site == decoder(14) and steps[1].needs == {"text_attention_ahead_unrotated"}
    assert (create("vscan").positions, create("vscan[score=received]").positions) == ("contiguous", "original")


def test_v2drop_plans_the_published_setting():
    steps, schedule = plan(create("v2drop"), LLAVA, Budget(203))
    assert [(step.site.layer, step.after) for step in steps] == [(3, 288), (17, 144), (22, 1)]
    assert schedule.average == pytest.approx(202.8, abs=0.05)


@pytest.mark.parametrize("method", ["vscan[stages=vision]", "vscan[stages=vision,score=received]", "apet[stages=vision]"])
@pytest.mark.parametrize("budget", [5, 64, 577, 1000])
def test_tiles_are_counted_each(method, budget):
    signals = random_signals(1, 2880, seed=1)
    places = torch.arange(2880).view(5, 576)
    signals = Signals(**{**vars(signals), "grid": None, "tile_places": places, "tile_grids": ((24, 24),) * 5})
    step = create(method).steps(TILES, Budget(budget, "final"))[0]
    got = step.select(signals.only(step.needs), step.keep)
    assert step.after % 5 == 0 and got.indices.shape == (1, step.after)
    assert [(got.indices // 576 == tile).sum().item() for tile in range(5)] == [step.after // 5] * 5
    fifth = {n: getattr(signals, n)[:, 2304:] for n in step.needs & {"vision_features", "features"}}
    rows = {n: getattr(signals, n)[..., 2304:] for n in step.needs if "attention" in n}
    one = Signals(**fifth, **rows, seeds=signals.seeds, count=576, grid=(24, 24))
    alone = create(method).steps(TILES, Budget(budget, "final"))[0].select.overview(one, step.keep // 5)
    assert torch.equal(alone.indices + 2304, got.indices[:, -step.after // 5 :])


@pytest.mark.parametrize("method", ["mustdrop", "flowcut"])
@pytest.mark.parametrize("shape", [TILES, QWEN])
def test_steps_in_the_tower_are_refused_where_tokens_are_no_patches(method, shape):
    with pytest.raises(BudgetError, match="try stages=llm"):
        create(method).steps(shape, Budget(64))
    assert create(f"{method}[stages=llm]").steps(shape, Budget(64, "final"))


def test_mustdrop_says_that_it_is_not_calibrated():
    method = create("mustdrop")
    assert method.tuned and not method.calibrated(0.001).tuned and method.calibrated(0.001).single == 0.001
    steps = method.steps(LLAVA, Budget(64))
    assert [str(step.site) for step in steps] == ["vision[0]", "decoder[3]", "decoder[7]", "decoder[11]", "decoder[15]"]
    assert all(step.adaptive for step in steps) and steps[0].behind
    assert {step.cuts_cache_from for step in steps[1:]} == {2}
    with pytest.raises(ValueError, match="no thresholds yet"):
        steps[1].select(random_signals(1, 36), 36)
    with pytest.raises(MethodError, match="both thresholds"):
        create("mustdrop[total=0.1]")


def test_ivcprune_cuts_the_caches_of_all_earlier_layers():
    (step,) = create("ivcprune").steps(LLAVA, Budget(64))
    assert (str(step.site), step.cuts_cache_from) == ("decoder[16]", 0)


def test_only_the_first_step_of_feather_keeps_an_even_grid():
    """Of 576 tokens the first keeps those of every third row and column; the second goes by the score alone."""
    first, second = create("feather").steps(LLAVA, Budget(64))
    g = torch.Generator().manual_seed(3)
    keys, query = torch.randn(1, 576, 4096, generator=g), torch.randn(1, 1, 4096, generator=g)
    signals = Signals(keys_unrotated=keys, text_queries_unrotated=query, seeds=torch.tensor([7]), count=576, grid=(24, 24))
    ranked = second.select.scores(signals)[0].argsort(descending=True, stable=True)
    even = {24 * row + column for row in range(0, 24, 3) for column in range(0, 24, 3)}
    kept = [set(step.select(signals, step.keep).indices[0].tolist()) for step in (first, second)]
    assert kept[0] == even | set(ranked[: int(576 * 0.3)].tolist())
    assert kept[1] == set(ranked[: int(576 * 0.09)].tolist()) and not even <= kept[1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ivcprune_keeps_a_token_of_few(count):
    (step,) = create("ivcprune").steps(
        dataclasses.replace(LLAVA, visual_tokens=count, grid=(1, count), kv_heads=2), Budget(1, "final")
    )
    kept = step.select(random_signals(1, count).only(step.needs), step.keep).indices
    assert kept.shape == (1, 1) and step.after == 1


@pytest.mark.parametrize("expression", ["ivcprune", "feather"])
def test_those_without_a_budget_stay_within_the_bound_that_they_plan(expression):
    method = create(expression)
    assert not method.budgeted
    signals = random_signals(1, 576, seed=2)
    for step in method.steps(LLAVA, Budget(64))[:1]:
        select = type(step.select)(2) if expression == "ivcprune" else feather.FeatherSelector(2, 1 - 0.7, True)
        assert 0 < select(signals, step.keep).indices.shape[1] <= step.after


@pytest.mark.parametrize("select", [mustdrop.Filter(0.03, 0.05, True), flowcut.Cut(2), ivcprune.IVCSelector(2),
                                    feather.FeatherSelector(2, 1 - 0.7, True)])  # fmt: skip
def test_rows_that_would_keep_other_counts_are_refused(select):
    """Such a selector is given one image at a time; two whose counts differ are not cut to one length in silence."""
    found = []
    for seed in range(20):
        signals = random_signals(2, 144, seed=seed)
        skewed = torch.cat([signals.cls_attention[:1], (signals.cls_attention[1:] * 40).softmax(-1)])
        signals = Signals(**{**vars(signals), "cls_attention": skewed})
        rows = [{n: v[i : i + 1] if torch.is_tensor(v) else v for n, v in vars(signals).items()} for i in range(2)]
        counts = {select(Signals(**{**row, "batch": 1}), 30).indices.shape[1] for row in rows}
        if len(counts) > 1:
            found.append(seed)
            with pytest.raises(ValueError, match="one image at a time"):
                select(signals, 30)
    assert found


PRECISE = [
    "vscan", "vscan[score=received]", "vscan[stages=llm]", "apet[start=3]", "apet[stages=llm,start=3]", "flowcut[stages=llm]",
    "v2drop", "feather", "ivcprune", "mustdrop[total=0.02,single=0.05]",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("expression", PRECISE)
def test_other_precisions_choose_alike(expression, dtype):
    """What half precision can tell apart is chosen as in float32; what comes out has the type of what went in."""
    signals = random_signals(1, 36, seed=9)
    half = {n: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in vars(signals).items()}
    shape = ModelShape("s", 36, (6, 6), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40)
    kinds = []
    for kind in (torch.float32, dtype):
        cast = {n: v.to(kind) if torch.is_tensor(v) and v.is_floating_point() else v for n, v in half.items()}
        for step in create(expression).steps(shape, Budget(24, "final")):
            if "carry" not in step.needs:
                got = step.select(Signals(**cast).only(step.needs), min(12, step.keep))
                kinds.append((kind, str(step.site), got.indices.tolist()))
                assert got.tokens is None or (got.tokens.dtype == kind and got.tokens.isfinite().all())
    wide, other = ([entry[1:] for entry in kinds if entry[0] == kind] for kind in (torch.float32, dtype))
    assert wide == other
