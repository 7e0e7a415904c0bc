"""The command `list`, and its rows; it needs no torch unless a plug-in does."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.options import Json
from harness.run.config import load_plugins

METRICS = (
    ("score", "the task's own figure, such as POPE's F1 or MME's total, in its own unit; 95 % interval over images"),
    ("scoring", "the rule by which answers are scored, how many another rule scores otherwise, how many it could not decide"),
    (
        "accuracy",
        "mean score of the answers by the rule that leads; 95 % interval over images, by Wilson at the effective number of "
        "answers",
    ),
    (
        "difference_none",
        "paired difference of the score to no pruning; p by flipping whole images, corrected by step-down max-T over all "
        "competing cells",
    ),
    ("difference_like", "paired difference to random tokens on the same schedule: what the ranking is worth"),
    ("difference_winner", "paired difference to the best method at the budget, tested likewise"),
    ("difference_downsample", "paired difference to the image shrunk to the same number of tokens, tested likewise"),
    (
        "retention",
        "score over that of none, with Fieller's 95 % interval; chance-adjusted by blind, where the image is worth anything",
    ),
    ("loyalty", "agreement with the unpruned answers, and KL of the first answer token (nats)"),
    ("mcnemar", "exact test of right and wrong, where every image has one question"),
    (
        "non_inferior",
        "whether a loss of the margin to none is ruled out: of a cell named beforehand, of the best, of any; smallest "
        "detectable loss",
    ),
    ("seeds", "of random: mean, standard deviation, lowest and highest score over several seeds"),
    ("evidence", "share of the answer's tokens that are kept, also less that of the control; accuracy where kept and where lost"),
    (
        "evidence.swap",
        "accuracy gained with the evidence forced in and random kept tokens out, at the same K; share of the loss, with its "
        "interval",
    ),
    ("difficulty", "accuracy on questions that downsampling loses, and on those it does not"),
    ("tokens", "visual tokens in the last LLM layer, and their mean over layers"),
    ("flops", "tower, projector, selection, prefill, decode per token; KV bytes"),
    ("latency", "milliseconds by stage over so many rounds, interleaved and paired; speed-up of TTFT; realised gain; A/A check"),
    ("memory", "KV bytes by formula and measured; peak of the device, or resident, one process a cell"),
    (
        "diversity",
        "ranks, Vendi score, cosines, log-determinant; distance of all tokens to the kept, residual outside their span",
    ),
    ("coverage", "cells hit, Clark-Evans index, hull, discrepancy, largest empty circle"),
    (
        "collapse",
        "each figure against random subsets of the same size on the same image: z, mean percentile and p; clusters visited",
    ),
    ("bias", "pull to rows and columns, overlap with the method's mean map; z against random subsets of the same rows"),
    ("scores", "entropy, Gini, effective support, mass in the top and in one cluster, of the scores an attention ranker uses"),
    ("layers", "by LLM layer: evidence still there, attention on the image, its entropy, evidence in its top tenth"),
    ("pareto", "whether a cell is on the front of score against TTFT or FLOPs, and how often when data are drawn again"),
)


class Listable(StrEnum):
    """What `list` can list."""

    methods = "methods"
    models = "models"
    tasks = "tasks"
    metrics = "metrics"


def list_names(
    what: Annotated[Listable, typer.Argument(help="methods, models, tasks or metrics.")],
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module that registers methods or tasks.")] = None,
    as_json: Json = False,
) -> None:
    """List what can be named.

    Methods with their parameters, signals and what they cannot do; models; tasks with metric, source and licence; metrics.
    """
    if plugin:
        load_plugins(plugin)
    entries = rows(what.value)
    if as_json:
        print(json.dumps(entries))
        return
    from rich.console import Console
    from rich.table import Table

    if what is Listable.tasks:  # JSON has the rest
        entries = [{name: entry[name] for name in ("name", "summary", "metric", "source")} for entry in entries]
    table = Table(*(entries[0] if entries else ()), box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in entry.values()))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, highlight=False).print(table)


def rows(what: str) -> list[dict[str, object]]:
    """Return the rows of `list` as dicts of one set of keys.

    Args:
        what: ``methods``, ``models``, ``tasks`` or ``metrics``.
    """
    if what == "metrics":
        return [{"name": name, "what": text} for name, text in METRICS]
    if what == "tasks":
        from harness.tasks.registry import infos

        return [
            {
                "name": i.name,
                "summary": i.summary,
                "metric": i.metric,
                "split": i.split,
                "families": list(i.families),
                "evidence": i.knows_evidence,
                "scored": i.scored,
                "answer_tokens": i.answer_tokens,
                "source": i.source,
                "licence": i.licence,
            }
            for i in infos()
        ]
    if what == "models":
        from harness.models.catalogue import EMBEDDED, plugged
        from harness.models.families import FAMILIES
        from harness.models.shapes import PUBLIC

        kinds = [
            *((name, "embedded") for name in EMBEDDED),
            *((name, "shape alone, for flops") for name in PUBLIC if name not in EMBEDDED),
            *((name, f"of another package: {point.value}") for name, point in plugged().items()),
            ("<folder>", f"local Hugging Face folder; families: {', '.join(FAMILIES)}"),
            ("<owner/name>", "hub id of one of these, such as llava-hf/llava-1.5-7b-hf"),
        ]
        return [{"name": name, "kind": kind} for name, kind in kinds]
    from methods.registry import entries

    return [
        {
            "name": e.name,
            "paper": e.paper,
            "site": e.site,
            "needs": sorted(e.needs),
            "parameters": [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in e.parameters.items()],
            "cannot": e.cannot,
            "summary": e.summary,
        }
        for e in entries().values()
    ]
