"""Whether a run and a published figure are of one model and task, and what is known to differ in how the two were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.errors import RequestError
from harness.literature.figures import UNKNOWN, PublishedFigure
from harness.literature.selection import hub_id, model_names
from harness.results.types import JsonObject
from harness.tasks.registry import BENCHMARKS, infos, parse
from harness.tasks.rule_names import OURS
from methods.expressions import MethodError, bare, parameters
from methods.expressions import parse as parse_method
from methods.single import values
from reports.cells import number

LIKE_LLAVA = frozenset({"gqa", "vqav2", "mme", "pope"})
"""Tasks that lmms-eval asks in LLaVA's words: the bare question, and behind it the sentence that the appendix of
arXiv:2310.03744 lists. What the others put around a question need not read alike."""
_CHANGES = {
    "quantize": "weights of {} bits in the LLM here",
    "max_pixels": "images shrunk to {} pixels here",
    "image_size": "images of {} pixels here",
    "chat_template": "another chat template here",
    "companion": "another CLIP beside the model here",
    "max_new_tokens": "answers of at most {} tokens here",
}  # fmt: skip
"""Options that change answers and are left alone by default; a source that changed them would say so."""
_MODES = {
    "average": "the mean over the LLM’s layers", "final": "the LLM’s last layer", "flops": "compute",
    "every": "every LLM layer alike",
}  # fmt: skip
_EVEN = 0.5
"""Tokens by which layers may differ in a cell that has the same number in all of them: what rounding does."""


@dataclass(frozen=True)
class RunFacts:
    """What a manifest tells of how a run was measured, as far as published figures can be held against it."""

    manifest: JsonObject
    task: str  # the name that all expressions of the task share
    options: dict[str, str]  # of the task expression
    tokens: float | None = None  # visual tokens of an image before pruning, the mean of all; None where that is not known

    @classmethod
    def of(cls, manifest: JsonObject, cells: Sequence[JsonObject] = ()) -> RunFacts:
        """Return the facts of a run.

        Args:
            manifest: of a run of any version.
            cells: entries of its summary.json, among which that without pruning tells how many tokens an image has.
        """
        expression = str(manifest.get("task") or "")
        try:
            name, options = parse(expression)
        except RequestError:
            name, options = expression, {}
        told = (manifest.get("task_info") or {}).get("name")
        whole = next((cell for cell in cells if cell.get("method") == "none"), {})
        return cls(manifest, str(told or name), options, number(whole, "tokens.average"))

    @property
    def config(self) -> JsonObject:
        """The request."""
        found: JsonObject = self.manifest.get("config") or {}
        return found

    @property
    def split(self) -> str | None:
        """The split of the data; None of local files of a benchmark, which do not tell it."""
        if "path" in self.options and "split" not in self.options:
            return None
        split = (self.manifest.get("task_info") or {}).get("split")
        return str(split) if split else None

    @property
    def other_data(self) -> str | None:
        """The data set of the hub that was asked for in the place of the benchmark's own; None of that one."""
        asked = self.options.get("hub")
        if asked is None:
            return None
        from harness.tasks.hub import both_names

        own = next((info.source for info in infos() if info.name == self.task), "")
        return None if asked in both_names(own) else asked

    def matched(self, name: str) -> str | None:
        """Return how the run's model is the one that a table names; None where it is another.

        Args:
            name: of a table's model.

        Returns:
            Empty where both bear one name, else a clause that says by what they were matched.
        """
        asked, name = str(self.manifest.get("model") or ""), hub_id(name)
        if asked == name:
            return ""
        if hub_id(asked) == name:
            return f"{asked} has the weights of {name}"
        hub = self.manifest.get("hub")
        if not isinstance(hub, dict) or "model" in hub:  # a hub id, or a run that is too old to tell it from a folder
            return None
        path = PurePosixPath(asked.replace("\\", "/"))
        for part in path.parts:
            if part.startswith("models--"):
                repository = part.removeprefix("models--").replace("--", "/", 1)
                same = hub_id(repository) == name
                return f"its folder is that of {repository} in the hub’s cache" if same else None
        if "/" in name and path.name.lower() in {one for one in model_names(name) if "/" not in one}:
            return f"matched by the name of its folder, {path.name}, alone"
        return None


@dataclass(frozen=True)
class Apart:
    """What keeps a cell and a published figure apart, as clauses."""

    differs: tuple[str, ...]  # is known to differ
    unknown: tuple[str, ...]  # is not said by the source, or not told by ours


def apart(figure: PublishedFigure, cell: JsonObject, facts: RunFacts) -> Apart:
    """Return what is known to differ between a cell and a figure of its method, model, task and budget, and what is not known.

    Args:
        figure: published.
        cell: entry of summary.json.
        facts: of its run.
    """
    found = [
        *_version(figure, str(cell.get("method"))), *_split(figure, facts), *_tokens(figure, facts), *_counts(figure, cell),
        *_prompt(figure, facts),
        *_request(facts),
    ]  # fmt: skip
    kinds = ("differs", "unknown")
    differs, unknown = (tuple(dict.fromkeys(text for kind, text in found if kind == wanted)) for wanted in kinds)
    return Apart(differs, unknown)


_Told = Iterator[tuple[str, str]]
"""``differs`` or ``unknown``, and a clause."""


def _version(figure: PublishedFigure, method: str) -> _Told:
    """By the version that the source tells, and the parameters of ours that are not default."""
    if figure.method == "none":
        return
    given: dict[str, str] = {}
    known: dict[str, str] = {}
    with suppress(MethodError):  # of a plug-in that is not loaded the parameters' defaults are not known
        given = parse_method(method)[1]
        known = values(method)
    if figure.expression and _same_method(method, figure.expression):
        given = {}
    elif figure.expression:
        yield "differs", f"the table is repeated with {figure.expression}"
    told = {} if figure.version == UNKNOWN else _told_parameters(figure.version)
    if figure.version == UNKNOWN:
        yield "unknown", "version of the method"
    elif not told.keys() <= known.keys():
        yield "unknown", f"whether ours is its version, {figure.version}"
    for name in told:
        given.pop(name, None)
    for name, here, there in parameters_apart(figure.version, method):
        yield "differs", f"{name}: {here} here, {there} there"
    if given:
        yield "differs", "parameters that are not default here: " + ", ".join(f"{key}={text}" for key, text in given.items())


def parameters_apart(version: str, method: str) -> list[tuple[str, str, str]]:
    """Return the parameters that a published version sets otherwise than a method of ours: name, value here, value there.

    A version that sets no parameter of the method, such as a commit, is not known to differ.

    Args:
        version: of a figure; ``unknown`` differs from nothing.
        method: our expression.
    """
    known: dict[str, str] = {}
    with suppress(MethodError):  # of a plug-in that is not loaded
        known = values(method)
    told = {} if version == UNKNOWN else _told_parameters(version)
    there = {name: _spelled(method, name, value) for name, value in told.items() if name in known}
    return [(name, known[name], value) for name, value in there.items() if value != known[name]]


def _told_parameters(version: str) -> dict[str, str]:
    """What a version sets, written as between the brackets of an expression; a single word is a parameter ``version``."""
    with suppress(MethodError):
        return parameters(version, "a published version")
    return {"version": version}


def _spelled(method: str, name: str, value: str) -> str:
    """A parameter's value as ours are spelled, so that 0.50 is 0.5; as it stands where the method does not take it."""
    with suppress(MethodError):
        return values(f"{bare(method)}[{name}={value}]")[name]
    return value


def _same_method(one: str, other: str) -> bool:
    """Whether two expressions are of one method with the same parameters, defaults included."""
    with suppress(MethodError):
        return bare(one) == bare(other) and values(one) == values(other)
    return one == other


def _split(figure: PublishedFigure, facts: RunFacts) -> _Told:
    if figure.split == UNKNOWN:
        yield "unknown", "split of the data"
    elif facts.split is None:
        yield "unknown", "split of our local files"
    elif facts.split != figure.split:
        yield "differs", f"split: {facts.split} here, {figure.split} there"
    if facts.other_data is not None:
        yield "differs", f"data: {facts.other_data} here"


def _tokens(figure: PublishedFigure, facts: RunFacts) -> _Told:
    if figure.tokens == UNKNOWN or facts.tokens is None:
        yield "unknown", "tokens of an image before pruning"
    elif abs(facts.tokens - float(figure.tokens)) > _EVEN:
        yield "differs", f"an image has {facts.tokens:,.6g} tokens before pruning here, {float(figure.tokens):,.6g} there"


def _counts(figure: PublishedFigure, cell: JsonObject) -> _Told:
    """Where a cell has as many tokens in every layer, all ways to count tokens are one number; compute is another."""
    if figure.method == "none":
        return
    layers, mode = cell.get("schedule") or [], str(cell.get("budget"))
    if mode == "flops":
        there = f"tokens there ({_MODES[figure.counts]})" if figure.counts in _MODES else "tokens there"
        yield "differs", f"budget counts {_MODES[mode]} here, {there}"
    elif figure.counts == UNKNOWN:
        yield "unknown", "what the budget counts"
    elif not (layers and max(layers) - min(layers) <= _EVEN) and figure.counts != mode:
        yield "differs", f"budget counts {_MODES.get(mode, mode)} here, {_MODES[figure.counts]} there"


def _prompt(figure: PublishedFigure, facts: RunFacts) -> _Told:
    if str(facts.config.get("prompt") or "{question}") != "{question}":
        yield "differs", "the prompt is changed here (--prompt)"
    if figure.prompt == UNKNOWN:
        yield "unknown", "prompt"
        return
    ours, theirs = "lmms-eval" if facts.task in BENCHMARKS else "prunescope", figure.prompt.partition(",")[0]
    if (ours, theirs) == ("lmms-eval", "LLaVA"):
        if facts.task not in LIKE_LLAVA:
            yield "unknown", "whether lmms-eval’s prompt, which is ours, reads like LLaVA’s"
    elif ours != theirs:
        yield "differs", f"prompt: {ours}’s here, {theirs}’s there"
    if facts.task == "textvqa":
        here, there = facts.options.get("ocr") == "true", "OCR" in figure.prompt
        if here != there:
            yield "differs", f"OCR tokens {'in the prompt here, not there' if here else 'not in the prompt here, but there'}"


def _request(facts: RunFacts) -> _Told:
    """What the run was asked to do otherwise than by default."""
    for name, clause in _CHANGES.items():
        if (value := facts.config.get(name)) is not None:
            yield "differs", clause.format(value)
    scoring = facts.manifest.get("scoring") or {}
    if facts.task in BENCHMARKS and scoring.get("rule") == OURS:
        yield "differs", "scored by our own rule here"
