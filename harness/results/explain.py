"""The command `explain`: what predicts accuracy, and which family of methods wins on simple and on complex images."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from harness.errors import RequestError
from harness.results.cell_kinds import is_explained
from harness.results.same_cells import same_cells
from harness.results.types import JsonObject
from harness.store.runs import RunFolder
from methods.keep import Keep, keep_facts
from metrics.explain import LISTS, STRATA, CellColumns, correlations, strata

_SHOWN = 10  # figures of a list; JSON has all
_LEVEL = 0.05  # of significance
_ASKED = {
    "across_methods": ("within question and budget", "Across these methods"),
    "across_methods_before_llm": ("within question and budget", "Across those that prune before the LLM, at equal counts"),
    "across_images": ("within method, budget and question family", "Across images"),
}


def explain(run: RunFolder, seed: int = 0) -> JsonObject:
    """Return what predicts accuracy in a run, from its folder alone.

    Correlations take the cells whose kept tokens were analysed; strata take mergers too. References are left out of
    both, but `random` is a method here: see `cell_kinds.is_explained`. Cells that are the same count once.

    Args:
        run: a finished run of which some images were analysed.
        seed: of bootstraps and tests.

    Returns:
        ``n_images`` analysed; ``correlations``, see `metrics.explain.correlations`; ``complexity``, see
        `metrics.explain.strata`, with ``keep_label`` beside ``keep``. Plain numbers, fit for JSON.

    Raises:
        RequestError: where the folder holds no finished run, or no image of it was analysed.
    """
    run.summary()  # of a finished run
    found = explain_if_analysed(run, seed)
    if found is None:
        raise RequestError(f"{run.folder}: no image of this run was analysed; run compare with --analyse above 0")
    return found


def explain_if_analysed(run: RunFolder, seed: int = 0) -> JsonObject | None:
    """Return the same as `explain` for a run that need not be finished; None where no image was analysed."""
    complexity = dict[Hashable, float](run.complexity().items())
    if not complexity:
        return None
    questions, same = run.analysed(), same_cells(run)
    pruners: list[CellColumns] = []
    all_methods: list[CellColumns] = []
    for ident, _, facts in run.cells():
        if facts["skipped"] is not None or not is_explained({**facts, "same_as": same.get(ident)}):
            continue
        schedule = facts.get("schedule") or ()
        known = facts["method"], Keep.stored(facts), _family(facts), len(set(schedule)) == 1
        all_methods.append(CellColumns(*known, run.columns(ident, questions)))
        if facts["prunes"]:
            pruners.append(CellColumns(*known, run.analysis(ident)))
    return {
        "n_images": len(complexity),
        "correlations": correlations(pruners, seed),
        "complexity": _told(strata(all_methods, complexity, seed)),
    }


def _told(found: JsonObject) -> JsonObject:
    """What `strata` found, its budgets as JSON holds them: ``keep`` and ``keep_label``."""
    by_budget = {name: [row | keep_facts(row["keep"]) for row in found[name]] for name in ("rows", "interactions")}
    return {**found, **by_budget}


def _family(facts: JsonObject) -> str:
    """What the method ranks by: as the run says, else as the registry does; none of a plug-in that is not loaded."""
    ranks_by: str | None = facts.get("ranks_by")
    if ranks_by:
        return ranks_by
    from methods.registry import MethodError, family

    try:
        return family(facts["method"])
    except MethodError:
        return "none"


def as_text(found: JsonObject) -> str:
    """Return what `explain` found as text for a terminal: the strongest correlations, then one table a budget."""
    blocks = [_correlations_text(name, found["correlations"][name]) for name in LISTS]
    return "\n\n".join([*blocks, *_strata_text(found["complexity"])])


def _correlations_text(name: str, listed: JsonObject) -> str:
    where, title = _ASKED[name]
    rows = listed["rows"]
    if not rows:
        return f"{title}: nothing to compare {where}."
    lines = [
        f"{title}, {where}: rho with the score, {rows[0]['n_images']:,} images.",
        f"Scores differ in {listed['mixed']:,} of {listed['groups']:,} groups. p are corrected by max-T over the list.",
    ]
    told = any(row["p_methods_adjusted"] is not None for row in rows)
    heads = ["figure", "rho", "95 % interval", "p, other images", *(["p, other methods"] if told else []), "answers"]
    table = [tuple(heads), *(_correlation(row, told) for row in rows[:_SHOWN])]
    lines += _aligned(table)
    if len(rows) > _SHOWN:
        lines.append(f"  ... and {len(rows) - _SHOWN} more")
    return "\n".join([*lines, _claim(listed, where, name == "across_images")])


def _correlation(row: JsonObject, told: bool) -> tuple[str, ...]:
    """One line of a list; p are corrected over the list."""
    methods = [_p(row["p_methods_adjusted"])] if told else []
    return row["figure"], f"{row['value']:+.3f}", _interval(row, "+.3f"), _p(row["p_adjusted"]), *methods, f"{row['n']:,}"


def _claim(listed: JsonObject, where: str, across_images: bool) -> str:
    """What the tests of a list allow to say: of other images, and of other methods; that nothing is shown is no claim."""
    rows, methods = listed["rows"], listed["methods"]
    sure = [row for row in rows if row["p_adjusted"] < _LEVEL]
    if not sure:
        return f"That any figure predicts correctness {where} could not be shown."
    said = f"{len(sure)} of {len(rows)} figures predict correctness {where} on other images; strongest: {sure[0]['figure']}."
    if across_images:
        return said
    tested = [row for row in sure if row["p_methods_adjusted"] is not None]
    general = [row for row in tested if row["p_methods_adjusted"] < _LEVEL]
    if general:
        return f"{said}\n{len(general)} of these predict it with other methods too; strongest: {general[0]['figure']}."
    if tested:
        least = f"{methods} methods, whose p is at least {listed['least_p_methods']:.2g}"
        return f"{said}\nThat any of these does so with other methods too could not be shown by {least}."
    return f"{said}\nWhether they do so with other methods too cannot be tested with {methods} methods."


def _strata_text(found: JsonObject) -> list[str]:
    """One block a budget, and what they say of attention and diversity."""
    if not found["rows"]:
        return ["By image complexity: no method with a budget to compare."]
    spans = {span["stratum"]: span for span in found["strata"]}
    blocks = [
        "By image complexity (effective rank of all visual tokens), accuracy in percent of each family of methods.\n"
        + "The winner is chosen on the same answers on which it is compared; p of differences are corrected by max-T over all "
        + "rows."
    ]
    for keep in dict.fromkeys(map(Keep.stored, found["rows"])):
        rows = {row["stratum"]: row for row in found["rows"] if Keep.stored(row) == keep}
        names = [name for name in STRATA if name in rows]
        here = [rows[name] for name in names]
        families = list(dict.fromkeys(family for row in here for family in row["families"]))
        cells = {
            family: next(row["families"][family]["cells"] for row in here if family in row["families"]) for family in families
        }
        kept = "-" if keep is None else keep.shown
        table = [(f"keep {kept}", *(f"{name} ({spans[name]['lo']:.1f} to {spans[name]['hi']:.1f})" for name in names))]
        table += [
            (f"{family} ({cells[family]})", *(_accuracy(row["families"].get(family)) for row in here)) for family in families
        ]
        table += [
            ("winner", *map(_winner, here)),
            ("... less the next", *(_difference(row["winner_minus_runner_up"]) for row in here)),
            ("attention - diversity", *(_difference(row["attention_minus_diversity"]) for row in here)),
            ("best method", *(row["best_method"]["method"] for row in here)),
            ("", *(_accuracy(row["best_method"]) for row in here)),
        ]
        blocks.append("\n".join([*_aligned(table), *_interaction_text(keep, found["interactions"])]))
    return blocks


def _winner(row: JsonObject) -> str:
    """The family that is ahead, with a mark where its lead over the next is not settled; nothing of a tie."""
    if row["winner"] is None:
        return "none, tied" if len(row["families"]) > 1 else "-"
    lead = row["winner_minus_runner_up"]
    sure = lead is None or (lead["p_adjusted"] is not None and lead["p_adjusted"] < _LEVEL)
    return f"{row['winner']}{'' if sure else ' (not settled)'}"


def _interaction_text(keep: Keep | None, interactions: Sequence[JsonObject]) -> list[str]:
    one = next((one for one in interactions if Keep.stored(one) == keep), None)
    if one is None:
        return ["Attention and diversity cannot be compared here: not both families are in the run."]
    move = f"{'falls' if one['value'] > 0 else 'rises'} by {100 * abs(one['value']):.1f} points"
    verdict = "Complexity matters" if one["p_adjusted"] < _LEVEL else "No certain effect of complexity"
    return [f"{verdict}: attention - diversity {move} from the lowest to the highest ({_p_text(one['p_adjusted'])}, Holm)."]


def _aligned(table: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first to the left."""
    rows = list(table)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:]))] for row in rows)
    return [("  " + "  ".join(cells)).rstrip() for cells in padded]


def _interval(figure: JsonObject, form: str, scale: float = 1.0) -> str:
    return "-" if figure["lo"] is None else f"{scale * figure['lo']:{form}} to {scale * figure['hi']:{form}}"


def _accuracy(figure: JsonObject | None) -> str:
    if figure is None or figure["value"] is None:
        return "-"
    return f"{100 * figure['value']:.1f} [{_interval(figure, '.1f', 100)}]"


def _difference(figure: JsonObject | None) -> str:
    return "-" if figure is None or figure["value"] is None else f"{_points(figure['value'])} ({_p_text(figure['p_adjusted'])})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _p(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
