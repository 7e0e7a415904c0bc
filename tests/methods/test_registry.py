"""Expressions, their canonical form, and the messages for wrong ones."""

import subprocess
import sys

import pytest
import torch

from methods.registry import BUNDLED, FAMILIES, MethodError, canonical, create, entries, family, register, split
from methods.types import Signals, UndeclaredSignal


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sts", "sts"),
        (" fastv[ layer=2 ] ", "fastv"),
        ("fastv[layer=3]", "fastv[layer=3]"),
        ("sts[depth=0.25,spatial_weight=1]", "sts[spatial_weight=1,depth=0.25]"),
        ("sts[stages=structure]", "sts[stages=structure]"),
        ("random[like=sparsevlm]", "random[like=sparsevlm]"),
        ("random[like=fastv[layer=3]]", "random[like=fastv[layer=3]]"),
        ("random[like=fastv[layer=2]]", "random[like=fastv]"),
        ("sparsevlm[recycle=false]", "sparsevlm[recycle=false]"),
    ],
)
def test_canonical(written, expected):
    assert canonical(written) == expected
    assert canonical(expected) == expected
    assert create(expected) == create(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("fastvv", "did you mean 'fastv'"),
        ("fastv[layr=3]", "did you mean 'layer'"),
        ("fastv[layer=two]", "not a valid int"),
        ("fastv[layer=0]", "at least 1"),
        ("sts[stages=first]", "both, structure, semantics"),
        ("sts[ratio=0]", "ratio=0"),
        ("sts[ratio", "cannot read"),
        ("random[like=nothing]", "unknown method 'nothing'"),
        ("", "cannot read"),
    ],
)
def test_wrong_expressions_name_what_would_work(written, message):
    with pytest.raises(MethodError, match=message.replace("[", r"\[")):
        create(written)


def test_split_keeps_brackets_whole():
    assert split("a,b[c=1,d=e[f=2,g=3]],h") == ["a", "b[c=1,d=e[f=2,g=3]]", "h"]


def test_every_entry_says_what_it_is():
    for name, entry in entries().items():
        assert entry.summary.endswith("."), name
        assert entry.site


def test_an_undeclared_signal_is_refused_by_name():
    signals = Signals(features=torch.ones(1, 4, 2), positions=torch.ones(1, 4, 2), count=4).only(frozenset({"features"}))
    assert signals.features.shape == (1, 4, 2)
    with pytest.raises(UndeclaredSignal, match="positions"):
        _ = signals.positions
    with pytest.raises(UndeclaredSignal, match="cls_attention"):
        Signals(count=4).only(frozenset({"cls_attention"}))


def test_what_was_collected_may_lack_signals():
    found = Signals.collected(features=torch.ones(1, 4, 2), positions=None, norm_scale=None, count=4, grid=(2, 2))
    assert found.positions is None and found.grid == (2, 2)
    view = found.only(frozenset({"features", "norm_scale"}))
    assert view.norm_scale is None and view.count == 4 and view.features is found.features
    with pytest.raises(UndeclaredSignal, match="gives no positions"):
        found.only(frozenset({"features", "positions"}))
    with pytest.raises(TypeError, match="featurs"):
        Signals.collected(featurs=torch.ones(1, 4, 2), count=4)


WITHOUT_TORCH = """
import sys

for name in ("torch", "numpy", "scipy", "sklearn", "transformers"):
    sys.modules[name] = None
from methods import Budget, ModelShape, create, entries
from methods.registry import canonical, family
from methods.schedule import plan

shape = ModelShape("7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064)
for name in [*entries(), "divprune+fastv[layer=3]", "random[like=sts]"]:
    for mode in ("average", "flops", *(() if name == "vtw" else ("final",))):
        steps, schedule = plan(create(canonical(name)), shape, Budget(384, mode))
        assert family(name) and len(schedule.llm) == 32
print(len(entries()))
"""


def test_methods_are_listed_and_planned_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and int(done.stdout) >= len(BUNDLED), done.stderr


def test_what_plug_ins_import_are_functions_and_classes_however_it_was_loaded_before():
    import methods
    import methods.registry

    assert all(callable(getattr(methods, name)) for name in methods.__all__)


def test_a_plug_in_function_becomes_a_method():
    from methods import Budget, ModelShape, Selection

    @register("first_tokens_for_test", needs={"features"})
    def first(signals, keep):
        """The first tokens."""
        return Selection(torch.arange(keep).expand(len(signals.features), -1))

    shape = ModelShape("s", 16, (4, 4), 2, 8, 2, 16, True, 8, 4, 8, 2, 2, 4, 16, True, 32)
    (step,) = create("first_tokens_for_test").steps(shape, Budget(5))
    assert (
        step.select(Signals(features=torch.ones(2, 16, 3), count=16).only(step.needs), 5).indices.tolist()
        == [[0, 1, 2, 3, 4]] * 2
    )
    with pytest.raises(MethodError, match="unknown signal"):
        register("x", needs={"featurs"})


def test_every_bundled_method_is_of_a_known_family():
    assert {name: family(name) for name in BUNDLED if family(name) not in FAMILIES} == {}
    for entry in entries().values():
        assert set(entry.variants.values()) <= set(FAMILIES)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("fastv", "attention"),
        ("fastv[layer=3]", "attention"),
        ("dart", "diversity"),
        ("fps", "diversity"),
        ("fps[space=grid]", "place"),
        ("grid", "place"),
        ("tome", "merging"),
        ("sts", "both"),
        ("sts[stages=structure]", "diversity"),
        (" sts[ stages=semantics , depth=0.25 ]", "attention"),
        ("vispruner[important=1]", "attention"),
        ("random[like=fastv]", "chance"),
        ("oracle", "evidence"),
        ("vtw", "none"),
        ("divprune+fastv", "both"),
        ("visionzip+fastv", "attention"),
    ],
)
def test_families(expression, expected):
    assert family(expression) == expected


def test_a_variant_of_another_family_can_be_written():
    for name, entry in entries().items():
        for variant in entry.variants:
            assert canonical(f"{name}[{variant}]") == f"{name}[{variant}]"


def test_a_family_follows_from_the_signals():
    @register("by_attention_for_test", needs={"text_attention", "features"})
    def first(signals, keep):
        """First."""

    @register("by_features_for_test", needs={"keys"})
    def second(signals, keep):
        """Second."""

    @register("by_nothing_for_test")
    def third(signals, keep):
        """Third."""

    assert [family(f"by_{name}_for_test") for name in ("attention", "features", "nothing")] == [
        "attention",
        "diversity",
        "chance",
    ]
    with pytest.raises(MethodError, match="did you mean 'attention'"):
        register("x", ranks_by="atention")
