"""Expressions, their canonical form, and the messages for wrong ones."""

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from harness.models.shapes import PUBLIC
from methods.registration import REGISTERED
from methods.registry import (
    BUNDLED,
    FAMILIES,
    MethodError,
    canonical,
    counting,
    create,
    entries,
    family,
    register,
    split,
    unverified,
    year,
)
from methods.signals import SIGNAL_NAMES
from methods.tiles import PerTile
from methods.types import Budget, BudgetError, Method, ModelShape, Signals, Step, UndeclaredSignal


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
        ("divprune+ivcprune", "ivcprune decides its count from the image, so there is no budget to split"),
        ("divprune+feather", "feather decides its count from the image, so there is no budget to split"),
        ("trim[adaptive=true]+fastv", "trim[adaptive=true] decides its count from the image, so there is no budget to split"),
        (
            "divprune+mustdrop[stages=llm,total=0.1,single=0.1]",
            "decides its count from the image, so there is no budget to split",
        ),
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


@pytest.fixture
def registered(monkeypatch):
    """A method with a variant that nothing proves, and one that nothing proves whatever its parameters."""
    before = dict(entries())

    class _Made(Method):
        def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
            return ()

    @register("madeup", unverified={"rule=paper": "no output of the authors", "share=0.5": "a half is ours"}, tiles="each")
    @dataclass(frozen=True)
    class MadeUp(_Made):
        """A method."""

        rule: str = "code"
        share: float = 0.25
        plus: bool = False

    @register("unproved", unverified={"plus=true": "plus is ours", "": "nothing is published"})
    @dataclass(frozen=True)
    class Unproved(_Made):
        """Another."""

        plus: bool = False

    yield
    REGISTERED.clear()
    REGISTERED.update(before)


def test_what_nothing_proves_is_told_by_variant(registered):
    assert unverified("fastv") is None
    assert unverified("madeup") is None
    assert unverified("madeup[rule=paper]") == "no output of the authors"
    assert unverified("madeup[share=0.50]") == "a half is ours"
    assert unverified("madeup[share=0.5,rule=paper]") == "no output of the authors"
    assert unverified("unproved") == "nothing is published"
    assert unverified("unproved[plus=true]") == "plus is ours"


def test_what_nothing_proves_of_a_composition_is_told_of_its_halves(monkeypatch):
    monkeypatch.setattr("methods.registry.entry", lambda name: replace(entries()[name], unverified=UNPROVED.get(name, {})))
    assert unverified("divprune+fastv") == "fastv: the layer is ours"
    assert unverified("divprune+fastv[layer=3]") is None
    assert unverified("tome+fastv") == "tome: nothing proves it; fastv: the layer is ours"


UNPROVED = {"fastv": {"layer=2": "the layer is ours"}, "tome": {"": "nothing proves it"}}


@pytest.mark.parametrize(
    ("expression", "marked"),
    [
        ("sparsevlm", False), ("sparsevlm[recycle=true]", False), ("sparsevlm[version=1,recycle=true]", False),
        ("sparsevlm[version=2]", False), ("sparsevlm[version=2,recycle=false]", False),
        ("sparsevlm[recycle=false]", True), ("sparsevlm[version=2,recycle=true]", True),
        ("vscan", False), ("vscan[score=received]", True), ("vscan[stages=llm,score=received]", True),
        ("vscan[stages=vision,score=received]", False),
        ("mustdrop", True), ("mustdrop[stages=llm]", True), ("mustdrop[total=0.001,single=0.002]", False),
    ],
)  # fmt: skip
def test_a_variant_is_marked_where_all_its_parameters_match(expression, marked):
    before = canonical(expression)
    assert bool(unverified(expression)) == marked
    assert canonical(expression) == before == canonical(before)


def test_what_a_method_ranks_by_follows_from_every_signal_that_is_of_a_kind():
    def usual(*needs: str) -> str:
        @register("usual", needs=set(needs))
        def usual(signals, keep):
            """Whatever."""

        return REGISTERED.pop("usual").ranks_by

    for name in SIGNAL_NAMES:
        of_attention = "attention" in name or name == "text_logits"
        assert (usual(name) == "attention") == of_attention, name
    assert usual("vision_features_first") == "diversity"
    assert usual("hidden_states", "hidden_states_before") == usual("hidden_states_before") == "change"
    assert usual("hidden_states_before", "text_attention") == "attention"


def test_how_a_budget_counts_on_tiles(registered):
    assert counting("madeup[plus=true]") == "each"
    assert counting("divprune+fastv") == counting("fastv") == "all"
    with pytest.raises(MethodError, match="counts tiles by unknown 'every'; choose one of all, each"):
        register("wrong", tiles="every")


def test_every_reason_names_a_parameter_and_a_value_of_it():
    for name, entry in entries().items():
        for key, reason in entry.unverified.items():
            assert reason, (name, key)
            if key:  # None stands in no expression: it is a default
                given = ",".join(one for one in key.split(",") if not one.endswith("=None"))
                assert unverified(f"{name}[{given}]" if given else name) == reason, (name, key)


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        ("arXiv:2412.01818", 2024), ("arXiv:2412.01818v1", 2024), ("baseline of arXiv:2510.07143", 2025), ("", None),
        ("doi:10.1016/0304-3975(85)90224-5", None), ("arXiv:2413.01818", None),
    ],
)  # fmt: skip
def test_the_year_of_a_paper(paper, expected):
    assert year(paper) == expected


@pytest.mark.parametrize("name", [name for name in BUNDLED if name not in ("none", "blind", "downsample", "oracle")])
def test_a_budget_counts_on_tiles_as_the_method_says(name):
    """int(K / T) of each tile on its own is the work of one selector, which no other method may use."""
    shape = PUBLIC["llava-next-7b"]
    assert shape.tiles > 1
    try:
        steps = create(name).steps(shape, Budget(640, "final" if name != "vtw" else "average"))
    except BudgetError as error:
        assert ("tile" in str(error) or "full grid" in str(error)) and counting(name) == "all"
        return
    assert any(isinstance(step.select, PerTile) for step in steps) == (counting(name) == "each")
