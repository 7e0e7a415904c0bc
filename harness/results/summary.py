"""From stored samples to ``summary.json``: every figure of every cell. Needs no torch."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.results.answer_figures import ScoredCells, answer_figures, best_methods, seed_figures
from harness.results.cell_kinds import CellRow, is_tested, removes_nothing
from harness.results.difference_families import DifferenceFamilies
from harness.results.evidence_families import EvidenceColumns, EvidenceFamilies
from harness.results.explain import explain_if_analysed
from harness.results.kept_token_figures import adjust_for_chance, kept_token_figures
from harness.results.leading_figure import CellScores, LeadingFigure, partial
from harness.results.loyalty import LoyaltyColumns, agreement_correlation, loyalty_figures
from harness.results.rulings import Rulings
from harness.results.same_cells import same_cells
from harness.results.sample_columns import NUMBER_COLUMNS, YES, RunQuestions, read_columns, read_repeats
from harness.results.speed_family import adjust_speed
from harness.results.spreadsheets import write_rows
from harness.results.types import Floats, JsonObject
from harness.store.older_runs import begun_by
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from methods.keep import Keep
from metrics import latency
from metrics.non_inferiority import images_needed
from metrics.paired_ratio import ratio_interval

StageTimes = Mapping[str, Floats]
"""Seconds by stage of `metrics.latency.STAGES`, [rounds of the stage] each; nan is a round that the cell was left out of."""
PassTimes = Mapping[tuple[int, int], StageTimes]
"""Stage times by latency pass and cell."""


def summarise(run: RunFolder) -> JsonObject:
    """Return the content of ``summary.json``; its figures come from the run folder alone.

    Every cell is read once. What only its own samples tell is reckoned then and there, so that of a cell no more than its
    scores stays in memory.

    Args:
        run: whose samples are all stored.

    Returns:
        A mapping whose values may still be dataclasses and numpy numbers; `plain` makes them fit for JSON.
    """
    manifest = run.manifest()
    seed, margin = manifest["config"]["seed"], manifest["config"]["margin"]
    questions = RunQuestions.of(run)
    leading = LeadingFigure.of(manifest, questions.families)
    rulings = Rulings.of(run, manifest, questions, leading)
    scored_cells, read = _read(run, questions, rulings)
    by_name = {(facts["method"], Keep.stored(facts)): scores for _, facts, scores in scored_cells if len(scores.score)}
    none_scores = by_name.get(("none", None))
    once = {ident for ident, facts, _ in scored_cells if not facts["same_as"]}  # what is the same twice tells nothing twice
    seeing = [cell for ident, facts, cell in scored_cells if ident in once and facts["method"] != "blind" and cell.scored]
    leading = leading.knowing(seeing, none_scores, margin)
    winners = best_methods(scored_cells, leading)
    differences = DifferenceFamilies(leading, seed)
    seen_evidence = [one.evidence for ident, one in read.items() if ident in once and one.evidence is not None]
    evidence = EvidenceFamilies(leading, questions, seen_evidence, seed)
    loyal = agreement_correlation([one.loyalty for ident, one in read.items() if ident in once and one.loyalty is not None])
    known, usual = run.layouts(), tuple(manifest["grid"])
    timings, again = run.timings(), run.timings(1)
    own_pass = {ident: number for number, ident in sorted(timings, reverse=True)}  # the first in which a cell was timed
    none = next(((ident, facts) for ident, facts, _ in scored_cells if facts["method"] == "none"), None)
    cells = []
    for ident, facts, scores in scored_cells:
        cell = {name: facts[name] for name in ("model", "task", "method", "params", "keep", "keep_label", "budget")}
        cell |= {"reference": facts["reference"], "removes_nothing": removes_nothing(facts), "skipped": facts["skipped"]}
        cell |= {"same_as": facts["same_as"], **{name: facts.get(name) for name in ("unverified", "tiles")}}
        cell |= {name: facts[name] for name in ("positions", "tokens", "flops", "schedule")}
        cell |= answer_figures(scores, by_name, winners, facts, differences, leading)
        if cell["score"] is not None:
            cell["score"]["partial"] = partial(run, ident, manifest.get("whole"))
        cell["families"] = cell["families"] and {questions.families[i]: figure for i, figure in cell["families"].items()}
        told = read.pop(ident)
        cell["scoring"], cell["loyalty"] = told.scoring, loyalty_figures(told.loyalty, loyal)
        cell["evidence"] = evidence.add(facts, scores, none_scores, told.evidence)
        cell["seeds"] = seed_figures(scores, _under_other_seeds(run, ident, questions, leading, rulings.wanted), leading)
        analysed = run.analysis(ident)
        grids = {i: known[i].grid if i in known else usual for i in set(analysed["image"])}
        cell |= kept_token_figures(analysed, facts, grids, seed, ranked=bool(manifest.get("chance")))
        cell["latency"] = _latency(timings, own_pass.get(ident), (ident, facts), none)
        cell["memory"] = _memory(facts)
        cell["task_figures"] = facts.get("task_figures")
        cells.append(cell)
    families = differences.test()
    evidence.test()
    adjust_for_chance(cells)
    adjust_speed(cells)
    _pareto(cells, scored_cells, leading, _beside_none(timings, none[0] if none else None), seed)
    aa = _aa(timings, again, none[0] if none else None)
    checks = {
        "aa": aa,
        "analysed_images": len(run.complexity()),
        "families": families,
        **_images_together(leading, none_scores, cells),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "run_schema_version": begun_by(manifest),
        "cells": cells,
        "winners": {str(keep): method for keep, method in winners.items()},
        "checks": checks,
        "explained": explain_if_analysed(run, seed),
    }


def plain(value: Any) -> Any:
    """Return a value with its dataclasses, numpy numbers and NaN as JSON knows them; NaN and infinity become None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def as_json(run: RunFolder) -> JsonObject:
    """Return `summarise` of a run as JSON knows it, nothing written."""
    with threadpool_limits(1, user_api="blas"):  # more threads would only wait at products this small
        summary: JsonObject = plain(summarise(run))
    return summary


def write(run: RunFolder) -> JsonObject:
    """Write ``summary.json`` and ``summary.csv`` of a run, and return the summary.

    Raises:
        RequestError: where a file cannot be written.
    """
    summary = as_json(run)
    rows = [flat(cell) for cell in summary["cells"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    write_rows(names, rows, file)
    run.write_text("summary.csv", file.getvalue())
    run.write_json("summary.json", summary)
    return summary


def flat(cell: JsonObject, prefix: str = "") -> JsonObject:
    """Return the nested figures of a cell as one level of dotted names, such as ``accuracy.value``; lists are left out.

    Args:
        cell: an entry of ``summary.json``.
        prefix: before every name.
    """
    out: JsonObject = {}
    for name, value in cell.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            out[f"{prefix}{name}"] = value
    return out


@dataclass(frozen=True, eq=False)
class _ReadFigures:
    """What a cell's own samples tell, and the columns that are needed once all cells are read."""

    scoring: JsonObject | None
    loyalty: LoyaltyColumns | None
    evidence: EvidenceColumns | None


def _read(run: RunFolder, questions: RunQuestions, rulings: Rulings) -> tuple[ScoredCells, dict[int, _ReadFigures]]:
    """The scores of every cell, and by cell the figures for which nothing else is needed; the facts tell what is the same."""
    cells, same = run.cells(), same_cells(run)
    scores_of: dict[int, CellScores] = {}
    read: dict[int, _ReadFigures] = {}
    for ident, _, facts in cells:
        expressions = (*NUMBER_COLUMNS, "failed IS NULL", *rulings.expressions.values())
        found = read_columns(run, ident, questions, expressions)
        columns = dict(zip((*NUMBER_COLUMNS, "answered", *rulings.expressions), found.table.T))
        answered = columns.pop("answered") > 0
        answers = rulings.answers(columns, found.place)
        scores_of[ident] = scores = CellScores(columns["score"].copy(), found.image, found.family, answered, *answers)
        counts = rulings.counts(columns) if scores.scored else None
        loyalty = LoyaltyColumns.of(columns, found.image, facts["method"] == "none" or removes_nothing(facts))
        read[ident] = _ReadFigures(counts, loyalty, EvidenceColumns.of(columns, found.place))
    return [(ident, {**facts, "same_as": same.get(ident)}, scores_of[ident]) for ident, _, facts in cells], read


def _images_together(leading: LeadingFigure, none: CellScores | None, cells: Sequence[JsonObject]) -> JsonObject:
    """How far the answers of an image change together, and how many images a claim of no loss takes then."""
    changes = leading.of_changes
    if not changes.values or none is None:
        return {"correlation": None, "needed_images": None}
    racing = Counter(
        cell["keep_label"] for cell in cells if is_tested(cell) and cell["difference_none"] is not None
    )  # fmt: skip
    most, each = max(racing.values(), default=1), leading.pieces_an_image(none)
    needed = [images_needed(leading.margin, each, changes.rho, methods) for methods in (1, most)]
    told = {"rho": changes.rho if changes.cells else None, "cells": changes.cells}
    return {
        "correlation": {**told, "questions_an_image": changes.questions_an_image},
        "needed_images": {"one": needed[0], "best": needed[1], "methods": most},
    }


def _under_other_seeds(
    run: RunFolder, ident: int, questions: RunQuestions, leading: LeadingFigure, wanted: Floats | None
) -> dict[int, float]:
    """The leading figure of a cell under each further seed; ``wanted`` says where yes is right, if the figure reads it."""
    if leading.is_mean:
        return run.repeats(ident)
    said = read_repeats(run, ident, questions, YES.format("read")) if leading.reads_answers else {}
    answered = np.ones(len(questions.image), bool)
    return {
        seed: leading.level(CellScores(scores, questions.image, questions.family, answered, wanted, said.get(seed)))
        for seed, scores in read_repeats(run, ident, questions).items()
    }


def _latency(
    timings: PassTimes, number: int | None, cell: tuple[int, JsonObject], none: tuple[int, JsonObject] | None
) -> JsonObject | None:
    """Stages, and the prefill's measured speed-up over the one that FLOPs promise; None of a cell that was not timed.

    Args:
        timings: of the run.
        number: of the latency pass that timed the cell; times of `none` are those of the same pass.
        cell: its id and facts.
        none: the same of the cell without pruning.
    """
    if number is None or none is None or (number, none[0]) not in timings:
        return None
    promised = none[1]["flops"]["llm_prefill"] / cell[1]["flops"]["llm_prefill"]
    return {**latency.summarise(timings[number, cell[0]], timings[number, none[0]], promised)}


def _aa(timings: PassTimes, again: PassTimes, ident_none: int | None) -> JsonObject | None:
    """`none` against itself in the same rounds: the ratio of times to first token, which is 1 but for the machine."""
    ratios, times = [], []
    for (number, ident), second in again.items():
        if ident == ident_none and (number, ident) in timings:
            first = latency.known_ttft(timings[number, ident])
            if first is not None and (ratio := latency.paired_ratios(latency.known_ttft(second), first)) is not None:
                ratios.append(ratio)
                times.append(first)
    if not ratios:
        return None
    found = ratio_interval(np.concatenate(ratios))
    known = [cv for seconds in times if (cv := latency.variation(seconds)) is not None]  # none of a single round
    return {**found.as_dict(), "rounds": found.rounds, "cv": max(known, default=None)}


def _beside_none(timings: PassTimes, none: int | None) -> Mapping[int, Floats]:
    """By cell of the first pass its time to first token over that of `none` in each round; nan where it was left out.

    Cells that are known early are left out of later rounds: the ratio in a round knows nothing of how busy other rounds were.
    """
    whole = None if none is None or (0, none) not in timings else latency.known_ttft(timings[0, none])
    if whole is None:
        return {}
    timed = {ident: latency.known_ttft(times) for (number, ident), times in timings.items() if number == 0}
    return {ident: own / whole for ident, own in timed.items() if own is not None}


def _memory(facts: JsonObject) -> JsonObject | None:
    """KV bytes by formula over all prompts; measured and by formula for the prompt that was timed; peaks where measured."""
    if facts["flops"] is None:
        return None
    kv, peak = facts.get("kv") or {}, facts.get("peak") or {}
    return {
        "kv_bytes": facts["flops"]["kv_bytes"],
        "kv_measured": kv.get("measured"),
        "kv_predicted": kv.get("predicted"),
        "peak_bytes": peak.get("peak_bytes"),
        "working_bytes": peak.get("working_bytes"),
    }


def _pareto(
    cells: Sequence[JsonObject],
    scored_cells: ScoredCells,
    leading: LeadingFigure,
    times: Mapping[int, Floats],
    seed: int,
) -> None:
    """Which cells are on the front of the leading figure against TTFT and FLOPs; without blind, oracle, what removes nothing.

    Times are those of `_beside_none`. What is the same as a cell before it is drawn once: it bears that one's entry.
    """
    for cell in cells:
        cell["pareto"] = {"latency": None, "flops": None}
    entered = [
        (cell, ident, scores) for cell, (ident, facts, scores) in zip(cells, scored_cells, strict=True)
        if scores.scored and facts["method"] not in ("blind", "oracle") and not removes_nothing(facts) and not facts["same_as"]
    ]  # fmt: skip
    flops = {ident: cell["flops"]["total"] for cell, ident, _ in entered if cell["flops"]}
    all_costs: dict[str, Mapping[int, Any]] = {"flops": flops, "latency": times}
    for name, costs in all_costs.items():
        there = [(cell, ident, scores) for cell, ident, scores in entered if ident in costs]
        if len(there) < 2 or len({len(scores.score) for _, _, scores in there}) > 1:
            continue
        prices = np.stack([np.asarray(costs[i]) for _, i, _ in there])
        found = leading.front_share([scores for _, _, scores in there], prices, seed)
        for (cell, _, _), on, share in zip(there, found.on, found.share, strict=True):
            cell["pareto"][name] = {"on": bool(on), "share": float(share)}
    by_row = {CellRow.of(cell): cell["pareto"] for cell in cells}
    for cell in cells:
        if first := cell["same_as"]:
            cell["pareto"] = by_row[CellRow.of(cell)._replace(method=first)]
