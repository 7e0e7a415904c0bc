"""The columns of the table of cells, each with unit, definition and raw value, so that text and numbers cannot part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metrics.paired_ratio import KNOWN
from reports import timing, wording
from reports.cells import Cell, dig, interval, leading, leading_share, method, number, p_value, rounds_without_interval
from reports.leading import PARTIAL, Unit, parts_from_accuracy, unit_of


@dataclass(frozen=True)
class Column:
    """One column of the table; ``path`` is where its figure stands in a cell of summary.json."""

    group: str
    title: str
    unit: str
    path: str
    meaning: str
    text: Callable[[float | None], str]
    detail: Callable[[Cell], str] = lambda cell: ""
    written: Callable[[Cell], str] | None = None  # writes a figure whose unit is the cell's own, in place of `text`
    mark: Callable[[Cell], str] = lambda cell: ""  # a word beside the figure
    note: Callable[[Cell], str] = lambda cell: ""  # what is told on hover


_HOW = {
    "f1": "harmonic mean of precision and recall of the answer yes, over all questions",
    "mme": "sum over the categories of accuracy plus the share of images whose questions are all right, each in percent",
    "circular": "share of the questions that are answered right in all rotations of their options",
}
"""What a kind of figure is, as a definition; of other kinds it is the mean score of the questions, see `_mean_score`."""
_TOO_WIDE = 2.0  # an interval of a share that tells nothing
_BY_RULE = {"ours": ("Our rule differs", "our rule"), "official": ("Official differs", "the official rule"),
            "authors": ("Authors’ differs", "the authors’ rule")}  # fmt: skip


def _share_range(path: str) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        found = interval(cell, path)
        return wording.percent_range(found) if found and found.hi > found.lo else ""

    return detail


TESTED = ("difference_none", "difference_like", "difference_downsample", "difference_winner", "evidence.swap_gain")
"""Columns whose small print has a p: corrected of cells that compete, raw of the others."""


def _p(cell: Cell, path: str, raw: Mapping[str, int]) -> str:
    """Write the p of a figure; of a raw one, one of how many raw ones of the column it is."""
    p, corrected = p_value(cell, path)
    if corrected or p is None:
        return wording.p_text(p)
    return wording.p_told(p, False, of if (of := raw.get(path, 0)) > 1 else None)


def _test(path: str, raw: Mapping[str, int]) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        gap = interval(cell, path)
        return "" if gap is None else f"{unit_of(cell).points_span(gap)}; {_p(cell, path, raw)}"

    return detail


def _retention(blind: bool) -> Callable[[Cell], str]:
    """Its interval, and how much is left of what the image is worth; of a run with the blind model, that this is not sure."""

    def detail(cell: Cell) -> str:
        if method(cell) == "none":
            return ""  # a share of itself
        found, above = interval(cell, "retention"), interval(cell, "retention_adjusted")
        told = [wording.percent_range(found)] if found is not None and found.known else []
        if method(cell) == "blind":
            return "; ".join(told)  # of what the image is worth it has nothing, by definition
        if above is not None:
            unbounded = isinstance(cell.get("retention_adjusted"), dict) and not above.known
            spread = f" [{wording.percent_range(above)}]" if above.known else ""
            vague = unbounded or above.hi - above.lo > _TOO_WIDE
            known = "not known well enough" if vague else f"{wording.percent(above.value)}{spread}"
            told.append(f"of what the image is worth: {known}")
        elif blind and isinstance(cell.get("retention"), dict):
            told.append("none is not above blind for sure")
        return "; ".join(told)

    return detail


def _range(path: str, text: Callable[[float | None], str]) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        found = interval(cell, path)
        return f"{text(found.lo)} to {text(found.hi)}" if found and found.hi > found.lo else ""

    return detail


def _timed_range(path: str, text: Callable[[float | None], str], counted: str = "rounds") -> Callable[[Cell], str]:
    """Write the interval of a time or a ratio of times; of rounds too few for one, how many they are."""

    def detail(cell: Cell) -> str:
        found = interval(cell, path)
        return rounds_without_interval(cell, counted) if found and not found.known else _range(path, text)(cell)

    return detail


def _ttft_detail(cell: Cell) -> str:
    """The interval of a time to first token, and what the unpruned model took in the rounds of the cell."""
    told = _timed_range("latency.ttft", wording.milliseconds)(cell), timing.none_in_its_rounds(cell)
    return "; ".join(part for part in told if part)


def _wide(cell: Cell) -> str:
    """The mark of a speed-up that is known only loosely."""
    return timing.WIDE if timing.is_wide(cell) else ""


def _swap_detail(raw: Mapping[str, int]) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        gain, share = interval(cell, "evidence.swap_gain"), number(cell, "evidence.swap_share")
        p, _ = p_value(cell, "evidence.swap_gain")
        told = [wording.points_range(gain) if gain else "", "" if p is None else _p(cell, "evidence.swap_gain", raw)]
        told.append("" if share is None else f"{wording.percent(share, 0)} % of the loss")
        return "; ".join(part for part in told if part)

    return detail


def _kv_detail(cell: Cell) -> str:
    found, predicted = number(cell, "memory.kv_measured"), number(cell, "memory.kv_predicted")
    if found is None or predicted is None or found == predicted:
        return ""
    return f"measured {wording.plain(found / 1e6)} for {wording.plain(predicted / 1e6)}"


def _peak_detail(cell: Cell) -> str:
    peak = number(cell, "memory.peak_bytes")
    return "" if peak is None else f"peak {wording.plain(peak / 1e6, 0)}"


def _front(cell: Cell) -> str:
    shares = {name: number(cell, f"pareto.{name}.share") for name in ("latency", "flops")}
    return ", ".join(f"{wording.percent(share, 0)} % by {name}" for name, share in shares.items() if share is not None)


def _front_text(cell: Cell) -> str:
    if not (dig(cell, "pareto.flops") or dig(cell, "pareto.latency")):
        return wording.MISSING
    on = [name for name in ("latency", "flops") if dig(cell, f"pareto.{name}.on")]
    return {0: "no", 1: f"by {on[0]}" if on else "", 2: "yes"}[len(on)]


def _leading_detail(cell: Cell) -> str:
    """The interval, the spread over seeds, and the mark of a partial figure."""
    unit, found = unit_of(cell), leading(cell)
    told = [unit.span(found)] if found and found.hi > found.lo else [""]
    if number(cell, "seeds.sd") is not None:
        low, high = (unit.digits(number(cell, f"seeds.{end}")) for end in ("lowest", "highest"))
        told.append(f"{number(cell, 'seeds.seeds')} seeds {low} to {high}")
    elif not told[0]:
        told = []
    return "; ".join(told + [PARTIAL] * (unit.partial and found is not None))


def _points(path: str) -> Callable[[Cell], str]:
    return lambda cell: unit_of(cell).points(number(cell, path))


def _marks(cell: Cell) -> str:
    found = number(cell, "tokens.marks")
    return "" if not found else f"and {found:,.4g} marks, which always stay"


def _leave(cell: Cell) -> str:
    """Before which decoder layers tokens leave; nothing where none do."""
    present = dig(cell, "schedule") or []
    layers = [str(layer) for layer in range(1, len(present)) if present[layer] < present[layer - 1]]
    return f"before layer{'s' if len(layers) > 1 else ''} {wording.listed(layers)}" if layers else ""


def columns(
    flops: tuple[float, str],
    units: tuple[Unit, ...] = (Unit(),),
    kind: str = "mean",
    blind: bool = False,
    raw: Mapping[str, int] | None = None,
) -> tuple[Column, ...]:
    """Return the columns of the table.

    Args:
        flops: the divisor and the name of the unit in which FLOPs are written, from `wording.flops_unit`.
        units: those of the figures that lead, from `units_of`; of several, each value says its own.
        kind: of the figure that leads, as the manifest tells it.
        blind: whether the run has the model that sees no image.
        raw: how many raw p stand in the table, by the column of `TESTED`.
    """
    raw = raw or {}
    divisor, name = flops

    def scaled(value: float | None) -> str:
        return wording.plain(None if value is None else value / divisor)

    figure = units[0].name if len(units) == 1 else "score"
    cosine, cells_hit = "diversity.mean_cosine", "coverage.cells"
    return (
        *_leading_columns(units, kind, blind, raw),
        Column("Loyalty", "Agreement", "%", "loyalty.agreement",
               "share of answers equal to the unpruned model's, right or wrong",
               wording.percent, _share_range("loyalty.agreement")),
        Column("Loyalty", "KL", "nats", "loyalty.kl",
               "mean Kullback-Leibler divergence of the first answer token from the unpruned model's; 0 is no change",
               lambda v: wording.plain(v, 3), _range("loyalty.kl", lambda v: wording.plain(v, 3))),
        Column("Evidence", "Recall", "%", "evidence.recall",
               "share of the tokens that hold the answer which are still among the kept, mean over questions "
               "with evidence",
               wording.percent, _share_range("evidence.recall")),
        Column("Evidence", "Swap", "points", "evidence.swap_gain",
               "accuracy gained when the evidence is forced into the kept set and random kept tokens leave, at the same K, over "
               "questions with evidence; tested against 0, corrected over the competing cells; the small print ends with the "
               "share of the loss to none", wording.points, _swap_detail(raw)),
        Column("Tokens", "Average", "", "tokens.average",
               "visual tokens present, mean over the LLM's layers; newline and mark tokens of an image are not among them",
               wording.count, _marks),
        Column("Tokens", "Final", "", "tokens.final",
               "visual tokens present in the LLM's last layer; the small print says before which of its layers tokens leave, "
               "counted from 0 and scaled to this model's depth", wording.count, _leave),
        Column("Cost", "Compute", name, "flops.total",
               "counted from the schedule, 2 per multiply-add: tower, projector, selection and prefill", scaled),
        Column("Cost", "TTFT", "ms", "latency.ttft",
               "time to first token: median of the rounds in which the cell took its turn beside the unpruned model (none), "
               "whose median in these very rounds stands beside it; hover for how many they are",
               wording.milliseconds, _ttft_detail, note=timing.round_notes),
        Column("Cost", "Speed-up", "×", "latency.ratio",
               "TTFT of the unpruned model over this cell's, from the ratios of single rounds, not the ratio of medians; wide "
               f"where the 95 % interval reaches further than {100 * KNOWN:g} % from it, so that the truth may be that far off",
               wording.plain, _timed_range("latency.ratio", wording.plain), mark=_wide, note=timing.why_wide),
        Column("Cost", "Stages' sum", "%", "latency.sum_gap",
               "by how much the medians of the stages before the first token, timed in rounds of their own, sum to more (+) or "
               "less than TTFT in one piece: what timing stage by stage costs", wording.points),
        Column("Cost", "Front", "", "pareto.latency.share",
               f"whether the cell is on the Pareto front of {figure} against TTFT (latency) and against compute (flops), and how "
               "often it stays there when images and rounds are drawn again", wording.plain, _front, written=_front_text),
        Column("Cost", "KV cache", "MB", "memory.kv_bytes",
               "keys and values of all layers after the prompt, by formula over all prompts; where a prompt was timed, its cache "
               "was measured too, and a difference stands in the small print",
               lambda v: wording.plain(None if v is None else v / 1e6), _kv_detail),
        Column("Cost", "Memory", "MB", "memory.working_bytes",
               "peak memory that running the cell adds to the loaded model (--memory): resident, one process a cell; on a GPU "
               "its allocator's, of several their sum, an upper bound; the small print has all of it",
               lambda v: wording.plain(None if v is None else v / 1e6, 0), _peak_detail),
        Column("Cost", "Realised", "", "latency.realised_gain",
               "measured prefill speed-up over the one the FLOPs promise, in the rounds of stages; 1 is all of it",
               wording.plain, _timed_range("latency.realised_gain", wording.plain, "stage_rounds")),
        Column("Kept tokens", "Effective rank", "", "diversity.effective_rank",
               "exponential of the entropy of the kept tokens' spectrum (Roy & Vetterli 2007), in the projected space, "
               "L2-normalised, uncentred",
               lambda v: wording.plain(v, 1), _range("diversity.effective_rank", lambda v: wording.plain(v, 1))),
        Column("Kept tokens", "Mean cosine", "", cosine,
               "mean pairwise cosine of the kept tokens; high is redundant",
               lambda v: wording.plain(v, 3), _range(cosine, lambda v: wording.plain(v, 3))),
        Column("Kept tokens", "Cells hit", "%", cells_hit,
               "share of the cells of a coarse grid over the image that hold a kept token",
               wording.percent, _share_range(cells_hit)),
    )  # fmt: skip


def _leading_columns(units: tuple[Unit, ...], kind: str, blind: bool, raw: Mapping[str, int]) -> tuple[Column, ...]:
    """Return the columns of the figure that leads, its differences, and what single answers add where it is not accuracy."""
    only = units[0] if len(units) == 1 else None
    plain = all(unit.plain for unit in units)
    group = "Accuracy" if plain else "Score"
    title, sign = (only.title, only.sign) if only else (group, "")
    figure = only.name if only else "score"
    leads = "most accurate method" if plain else f"method of the highest {figure}"
    how = "share of questions scored right" if plain else _HOW.get(kind) or _mean_score(only)
    scale = "" if only and only.scale == 100 else f", in points {only.sign}" if only else ", in points of the scale"
    written = (lambda c: unit_of(c).digits(leading_share(c))) if only else (lambda c: unit_of(c).unmarked(leading_share(c)))
    return (
        Column(group, title, sign, "accuracy" if plain else "score",
               f"{how}, with its 95 % interval over images; of random also the lowest and the highest of several seeds",
               wording.percent, _leading_detail, written=written),
        Column(group, "Retention", "%", "retention",
               f"{figure} as a share of the unpruned model's, with its 95 % interval where the two can be divided; the small "
               "print has the share of what the image is worth: both less what the blind model reaches, where the unpruned one "
               "is above it for sure",
               wording.percent, _retention(blind)),
        Column(group, "To none", "points", "difference_none",
               f"{figure} minus the unpruned model's on the same questions{scale}; {_tested(plain)}, "
               "p corrected by max-T over all competing cells; of references, random tokens and what is the same as "
               "another cell uncorrected: raw, one of so many raw ones in this column",
               wording.points, _test("difference_none", raw), written=_points("difference_none")),
        Column(group, "To random", "points", "difference_like",
               f"{figure} minus that of random tokens on the same schedule and numbered alike (the row random[...] or random): "
               "what the ranking is worth; tested likewise",
               wording.points, _test("difference_like", raw), written=_points("difference_like")),
        Column(group, "To downsample", "points", "difference_downsample",
               f"{figure} minus that of downsample, the image shrunk to the same budget; tested likewise",
               wording.points, _test("difference_downsample", raw), written=_points("difference_downsample")),
        Column(group, "To best", "points", "difference_winner",
               f"{figure} minus that of the {leads} at this budget; tested likewise. The best was chosen from these "
               "data, so small p values flatter it", wording.points, _test("difference_winner", raw),
               written=_points("difference_winner")),
    )  # fmt: skip


def _mean_score(only: Unit | None) -> str:
    """The definition of a mean of scores: of a total of questions, how many of them are answered right."""
    if only is None or only.scale == 100:
        return "mean score of the questions"
    return f"right answers {only.sign}: the mean score of the questions, scaled to {only.scale:,.6g}"


def _tested(plain: bool) -> str:
    """The interval and the paired test: of means, swapping two answers turns the sign of their difference."""
    if plain:
        return "interval and sign-flip permutation test over images"
    return "interval over images, and permutation test in which the answers of an image change sides"


def answer_columns(cells: list[Cell]) -> tuple[Column, ...]:
    """Return what tells how single answers were scored: their accuracy where another figure leads, and where rules disagree."""
    found = []
    if any(parts_from_accuracy(cell) for cell in cells):
        found.append(Column("Answers", "Accuracy", "%", "accuracy", "mean score of single questions, whatever the figure that "
                            "leads", wording.percent, _share_range("accuracy")))  # fmt: skip
    for rule, (title, phrase) in _BY_RULE.items():
        if any(number(cell, f"scoring.differ.{rule}") is not None for cell in cells):
            found.append(Column("Answers", title, "", f"scoring.differ.{rule}",
                                f"answers to which {phrase} gives another score than the rule that leads",
                                wording.count, _of_scored))  # fmt: skip
    if any(number(cell, "scoring.undecided") for cell in cells):
        found.append(Column("Answers", "Undecided", "", "scoring.undecided", "answers that the code of the leading rule "
                            "cannot decide; they count as wrong", wording.count, _of_scored))  # fmt: skip
    return tuple(found)


def _of_scored(cell: Cell) -> str:
    scored = number(cell, "scoring.n")
    return "" if scored is None else f"of {scored:,.0f}"
