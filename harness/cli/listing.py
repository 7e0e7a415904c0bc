"""The command `list`, and its rows; it needs no torch unless a plug-in does."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.options import Json
from harness.run.config import load_plugins
from methods.loading import BUNDLED
from methods.registration import Entry
from methods.registry import unverified

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


_OF_TASKS = ("name", "summary", "metric", "source")
_OF_METHODS = (
    (140, ("name", "paper", "year", "family", "verified", "tiles", "site", "parameters", "summary")),
    (120, ("name", "paper", "year", "family", "verified", "site", "summary")),
    (90, ("name", "paper", "year", "family", "verified", "summary")),
    (0, ("name", "year", "family", "verified", "summary")),
)
"""Columns of the table of methods, by how many characters a line has at the least."""
_MARK = "*"
_VERIFIED = (
    "verified: where the authors' code is public, selections equal its stored outputs on given signals; that a model shows them "
    "these signals is tested against transformers' own modules. Exceptions (*):"
)
_TILES = (
    "tiles: of an image in several, a budget counts the tokens of all together, or int(K / tiles) of each on its own, as the "
    "authors count; no output of theirs is there to compare the latter with."
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

    Methods with year, what they rank by, what proves their rule, and how a budget counts where an image is in several tiles
    (JSON has their signals and what they cannot do too); models; tasks with metric, source and licence; metrics.
    """
    if plugin:
        load_plugins(plugin)
    entries = rows(what.value)
    if as_json:
        print(json.dumps(entries))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    shown = tuple(entries[0]) if entries else ()  # JSON has what the tables leave out
    if what is Listable.methods:
        shown = next(names for least, names in _OF_METHODS if console.width >= least)
    elif what is Listable.tasks:
        shown = _OF_TASKS
    cells = [[_text(name, entry[name]) for name in shown] for entry in entries]
    table = Table(box=None, pad_edge=False)
    for name, column in zip(shown, zip(*cells)):
        width = _width(name, column) if what is Listable.methods else None
        table.add_column(name, width=width, overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)
    if what is Listable.methods:
        from methods.registry import entries as registered

        console.print("", _VERIFIED, *_exceptions(list(registered().values())), sep="\n")
        if "tiles" in shown:
            console.print(_TILES)


def _text(name: str, value: object) -> str:
    """A value as a cell of a table; the option that all methods have is left out among a method's parameters."""
    if isinstance(value, list):
        return ", ".join(str(one) for one in value if not str(one).startswith("positions="))
    text = "" if value is None else str(value)
    if name == "verified":  # the reasons stand below the table
        proof, mark, _ = text.partition("unverified")
        if mark and (not proof or ", the default" in text):
            return mark + _MARK
        return proof.rstrip("; ") + _MARK * bool(mark)
    return text.replace("/", "/\n") if text.startswith("doi:") else text  # the longest of all papers


def _width(name: str, column: Sequence[str]) -> int | None:
    """Characters of a column of methods, so that no word breaks: those of its longest word or line; the summary has the rest."""
    if name == "summary":
        return None
    whole = name in ("name", "verified")
    return max(len(part) for text in (name, *column) for part in (text.splitlines() if whole else text.split()))


def _exceptions(entries: Sequence[Entry]) -> list[str]:
    """Say of each method and variant that no output of its authors' code proves, why; variants of one reason in one line."""
    found = []
    for entry in entries:
        usual = unverified(entry.name)
        by_reason: dict[str, list[str]] = {why: [] for why in entry.unverified.values()}
        for key, why in entry.unverified.items():
            by_reason[why].append(f"{entry.name}{f'[{key}]' if key else ''}{', the default' if key and why == usual else ''}")
        found += [f"  {' and '.join(variants)}: {why}" for why, variants in by_reason.items()]
    return found


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
    from methods.registry import entries, year

    return [
        {
            "name": e.name,
            "paper": e.paper,
            "year": year(e.paper),
            "family": e.ranks_by,
            "verified": _verified(e),
            "tiles": e.tiles,
            "site": e.site,
            "needs": sorted(e.needs),
            "parameters": [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in e.parameters.items()],
            "cannot": e.cannot,
            "summary": e.summary,
        }
        for e in entries().values()
    ]


def _verified(entry: Entry) -> str:
    """What proves a method's rule: outputs of its authors' code, or that it is ours; and which variants nothing proves."""
    if entry.name not in BUNDLED:
        return f"unverified: {entry.unverified['']}" if "" in entry.unverified else "of another package"
    if "" in entry.unverified:
        return f"unverified: {entry.unverified['']}"
    proved = "authors' outputs" if entry.paper and not entry.reference else "ours"
    usual = unverified(entry.name)
    told = [f"{key}{', the default' if why == usual else ''} ({why})" for key, why in entry.unverified.items()]
    return f"{proved}; unverified: {'; '.join(told)}" if told else proved
