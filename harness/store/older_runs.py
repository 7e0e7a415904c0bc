"""Runs of older versions, rewritten before anything is added to them. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.store.budgets import TOLD_BY_SIZE, cell_key, in_present_terms
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from methods.keep import Keep


def begun_by(manifest: Mapping[str, Any]) -> int:
    """Return the schema version that began a run, which the manifest keeps where a newer one went on with it.

    Args:
        manifest: of the run.
    """
    version: int = manifest.get("begun_by", manifest["schema_version"])
    return version


TF32_OFF, TF32_POSSIBLE = "whole", "TF32 possible"
"""What `rounding_on_gpu` says of float32."""


def rounding_on_gpu(manifest: Mapping[str, Any]) -> str | None:
    """Return how far a GPU may have rounded the float32 of a run; None of another precision, and of a run without a GPU.

    A version that wrote no ``tf32`` left torch's default, which lets convolutions round to TF32.

    Args:
        manifest: of the run.
    """
    device = str(manifest.get("device") or "cpu").lower()
    if manifest.get("dtype") != "float32" or device.startswith(("cpu", "mps")):
        return None
    return TF32_OFF if manifest.get("tf32") is False else TF32_POSSIBLE


def modernise(run: RunFolder) -> None:
    """Write the tables, the budgets and the keys of cells of an older run as this version does, before anything is added to it.

    The manifest keeps the schema version that began the run as ``begun_by``.

    Args:
        run: whose lock is held.

    Raises:
        RequestError: where that cannot be stored.
    """
    manifest = run.manifest()
    if manifest["schema_version"] == SCHEMA_VERSION:
        return
    run.complete()
    now = {"schema_version": SCHEMA_VERSION, "begun_by": begun_by(manifest)}
    if manifest["schema_version"] > TOLD_BY_SIZE:
        run.write_json("manifest.json", manifest | now)
        return
    rows = []
    for ident, _, facts in run.cells():
        what = (facts["model"], facts["task"], facts["method"], Keep.stored(facts), facts["budget"], facts["positions"])
        rows.append((cell_key(*what, facts.get("seed", manifest["config"]["seed"])), json.dumps(facts), ident))
    with run.storing(), run.connection as connection:
        connection.executemany("UPDATE cells SET key = ?, facts = ? WHERE id = ?", rows)
    run.write_json("manifest.json", in_present_terms(manifest) | now)
