"""One self-contained HTML page for a run: it loads nothing, works from a file, and prints."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from typing import Any

from markupsafe import Markup

from harness.store.older_runs import TF32_OFF, rounding_on_gpu
from metrics.non_inferiority import FEWEST
from metrics.paired_ratio import KNOWN
from reports import against_published, gallery, headline, table, timing, wording
from reports.cells import Stratum, dig, interval, keep, leading, marks_note, method, number, removes_note, shown, strata
from reports.figures.catalogue import figures
from reports.figures.tokens import chance_table, unranked
from reports.findings import findings
from reports.leading import unit_of, units_of
from reports.losses import losses
from reports.method_notes import counted_on_tiles, races, same_notes, tiles_note, unverified_methods
from reports.scoring import partial, ruled, rules
from reports.templating import encodable, environment, own_file
from reports.view import RunView

SCRIPTS = ("page.js", "table.js", "draw.js", "gallery.js")
"""Files that make the one script of the page, in this order."""
_CORRECTED_SINCE = 5  # the version of a run folder since which summaries hold all tests that sentences rest on
_REASONS = 5  # why samples failed, on the page; the manifest and `samples --failed` have more


def render(run: RunView) -> str:
    """Return the report page of one run.

    Args:
        run: manifest, cells of summary.json and gallery; any field of a cell may be null.

    Returns:
        HTML with styles, script, figures and images inside; its Content-Security-Policy forbids all else.
    """
    groups, units = strata(run.cells), units_of(run.cells)
    script = own_file(*SCRIPTS)
    against = against_published.section(run.held)
    pictured = gallery.payload(run.gallery) if run.gallery else None
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            manifest=run.manifest,
            title=_title(run.manifest, groups),
            facts=_facts(run),
            alerts=_alerts(run),
            sections=[_section(run, group, f"s{i}") for i, group in enumerate(groups)],
            table=table.table(run.cells, groups, str(dig(run.manifest, "scoring.figure.kind") or "mean")),
            scored=" ".join(rules(run.manifest, run.cells)),
            partial=" ".join(partial(run.manifest, run.cells)),
            ruled=ruled(run.manifest),
            figure=units[0].name if len(units) == 1 else "the score",
            skipped=[(method(c), shown(c), str(c["skipped"])) for c in table.skipped(run.cells)],
            versions=sorted((run.manifest.get("versions") or {}).items()),
            digests=[(name, digest) for name, digest in (run.manifest.get("fingerprints") or {}).items() if digest],
            hub=_hub(run.manifest),
            config=_options(run.manifest),
            checked=_self_check(run.manifest),
            kernels=_kernels(run.manifest),
            timed=timing.how_timed(run.manifest, run.cells),
            known=f"{100 * KNOWN:g}",
            rounding=_rounding(run.manifest),
            gallery=Markup(pictured.json) if pictured else None,  # nosec B704  # JSON that `payload` made inert
            images=pictured.images if pictured else 0,
            apart=_apart(groups),
            unverified=unverified_methods(run.cells),
            counted_on_tiles=counted_on_tiles(run.cells),
            older=_is_older(run),
            against=against,
            style=own_file("report.css", *(["against.css"] if against else [])),
            script=script,
            policy=_policy(script),
        )
    )
    return encodable(html)


def _policy(script: str) -> str:
    """Return the policy that allows inline styles, data: images and this very script, known by its hash, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _section(run: RunView, group: Stratum, name: str) -> dict[str, object]:
    return {
        "name": name,
        "title": f"{group.task} on {group.model}",
        "budget": group.budget,
        "worth": headline.image_worth(group),
        "headlines": headline.headlines(group),
        "findings": findings(group, run.explained),
        "losses": losses(group),
        "figures": [
            {"name": f.name, "title": f.title, "caption": f.caption, "svg": Markup(f.svg)}  # nosec B704  # what we have drawn
            for f in figures(group, name)
        ],
        "chance": chance_table(group),
    }


def _title(manifest: dict[str, Any], groups: list[Stratum]) -> str:
    names = dict.fromkeys(f"{g.task} on {g.model}" for g in groups)
    if not names:
        names = {f"{manifest.get('task') or '?'} on {manifest.get('model') or '?'}": None}
    return "Visual token pruning: " + wording.listed(list(names))


def _facts(run: RunView) -> list[tuple[str, str]]:
    """Return the facts of the run by name; those that the manifest lacks are left out."""
    m = run.manifest
    pruned = {method(c) for c in run.cells if keep(c) is not None and not c.get("skipped")}
    controls = any(c.get("reference") and keep(c) is not None for c in run.cells)
    found = [
        ("Model", m.get("model")),
        ("Task", m.get("task")),
        ("Data", dict(_hub(m, digits=12)).get("data")),
        ("Images", wording.count(images) if (images := _images(run)) is not None else _whole(m, "samples")),
        ("Questions", _whole(m, "questions")),
        ("Analysed", f"{analysed:,.0f} images" if (analysed := number(run.checks, "analysed_images")) is not None else None),
        ("Budgets", _budgets(run)),
        ("Methods", f"{len(pruned)}{' with controls' if controls else ''}" if pruned else None),
        ("Seed", m.get("seed")),
        ("Device", m.get("device")),
        ("Precision", m.get("dtype")),
        ("Made", _moment(m.get("created"))),
        ("Took", wording.duration(m.get("duration_s")) if m.get("duration_s") is not None else None),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _hub(manifest: dict[str, Any], digits: int = 40) -> list[tuple[str, str]]:
    """Return the repositories of the hub that the run read, by what they gave, each with the first digits of its commit."""
    named = [(role, str(one.get("repository")), one.get("revision")) for role, one in (manifest.get("hub") or {}).items()]
    return [(role, f"{name}, commit {str(commit)[:digits]}" if commit else name) for role, name, commit in named]


def _budgets(run: RunView) -> str:
    """Return the budgets of a run, shares before counts; those that the manifest names where no cell has any."""
    found = {k for c in run.cells if (k := keep(c)) is not None}
    return ", ".join(k.shown for k in sorted(found, reverse=True)) or ", ".join(map(str, run.manifest.get("budgets") or []))


def _images(run: RunView) -> float | None:
    """Images that were answered; a task may have fewer than were asked for."""
    return max((n for c in run.cells if (n := number(c, "n_images")) is not None), default=None)


def _kernels(manifest: dict[str, Any]) -> str | None:
    """Return which code selected greedily, as a sentence; None of a run that does not say."""
    found = manifest.get("kernels")
    if not isinstance(found, dict):
        return None
    loops = found.get("loops") or ()
    if not loops:
        return "No method of this run selected greedily."
    version = found.get("triton") or "of an unknown version"
    told = []
    for loop in loops:
        fewest, most = (wording.count(tokens) for tokens in loop["tokens"])
        among = most if fewest == most else f"{fewest} to {most}"
        code = f"Triton {version}" if loop["ran"] == "triton" else "torch"
        why = f" ({loop['reason']})" if loop["reason"] else ""
        told.append(f"{loop['loop']} among {among} tokens in {code}{why}")
    why = f" Not in Triton: {found['why']}." if found.get("why") else ""
    return f"What ran: {'; '.join(told)}.{why}"


def _rounding(manifest: dict[str, Any]) -> str | None:
    """Return whether a GPU may have rounded float32, as a sentence; None of another precision, and of a run without a GPU."""
    found = rounding_on_gpu(manifest)
    if found is None:
        return None
    return "TF32 was off." if found == TF32_OFF else "Convolutions may have been rounded to TF32, ten bits of mantissa."


def _moment(text: object) -> str | None:
    """Write a date and time as a reader does; text that is no date stays as it is."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return None if text is None else str(text)


def _options(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return every option of the run, those that were left out too; lists as the command line takes them."""
    config = manifest.get("config") or {}
    texts = {name: ",".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in config.items() if v not in (None, [])}
    return sorted(texts.items())


def _self_check(manifest: dict[str, Any]) -> str | None:
    """Return what the self-check of the model came to, as a sentence; None of a run that knows of none."""
    found = manifest.get("self_check")
    said = str(found.get("said") or "") if isinstance(found, dict) else ""
    return said[:1].upper() + said[1:] + "." if said else None


def _apart(groups: list[Stratum]) -> tuple[str, str]:
    """Return the best and the worst method at the smallest budget, which the gallery puts side by side first."""
    for group in groups:
        racing = [c for k in reversed(group.budgets) for c in group.at(k) if races(c) and leading(c) is not None]
        first = [method(c) for c in racing if keep(c) == keep(racing[0])]
        if first:
            return first[0], first[-1]
    return "", ""


def _same_machine(run: RunView) -> list[str]:
    """Say by the A/A check how far two timings of the same thing lie apart on this machine."""
    ratio = interval(run.checks, "aa")
    if ratio is None:
        return []
    rounds = number(run.checks, "aa.rounds") or 0
    within = "one round" if rounds == 1 else f"the same {rounds:.0f} rounds"
    said = f"A/A check: none against itself in {within} is {ratio.value:.3f} times as fast"
    if not ratio.known:
        return [f"{said}; so few rounds have no interval, so no speed-up can be judged."]
    said += f" [{wording.plain_range(ratio, 3)}]"
    if ratio.lo > 1 or ratio.hi < 1:
        fair = "as it does in one of 20 such checks where nothing is wrong"
        return [f"{said}. It should be 1, which this interval leaves out, {fair}; trust no speed-up of this size."]
    return [f"{said}; trust no speed-up inside that range."]


def _older(run: RunView) -> list[str]:
    """Say which older version made a run that is summarised by newer rules, and what it did not store for them."""
    if not _is_older(run):
        return []
    said = f"This run was begun by schema version {run.made_by} and is summarised by the rules of this one"
    if not any(unranked(c, "cells") for c in run.cells):
        return [f"{said}."]
    return [f"{said}; its ranks of coverage, clusters and rank99 were not stored fit for a test, so no p stands there."]


def _is_older(run: RunView) -> bool:
    return run.made_by is not None and run.made_by < _CORRECTED_SINCE


def _needed_images(run: RunView) -> list[str]:
    """Say how many images would show that a method which loses nothing loses little, where the run has fewer."""
    one, best = (number(run.checks, f"needed_images.{name}") for name in ("one", "best"))
    images, margin = _images(run), next((m for c in run.cells if (m := number(c, "non_inferior.margin")) is not None), None)
    if one is None or best is None or images is None or margin is None or images >= best:
        return []
    methods, unit = number(run.checks, "needed_images.methods") or 1, unit_of(*run.cells)
    named = f", {one:,.0f} where it was named beforehand" if one < best else ""
    chosen = f"as the best of {methods:.0f} methods" if methods > 1 else "as the only method"
    alike = " like these" if number(run.checks, "correlation.rho") is not None else ""
    more = f" (counted for answers; {unit.name} takes more)" if dig(run.manifest, "scoring.figure.kind") == "f1" else ""
    has = "one image" if images == 1 else f"{images:,.0f} images"
    return [f"This run has {has}. To show a method that loses nothing non-inferior at {unit.points_plain(margin)} "
            f"{unit.measured_in} takes some {best:,.0f} images{alike} {chosen}{named}{more}."]  # fmt: skip


def _whole(manifest: dict[str, Any], key: str) -> str | None:
    value = number(manifest, key)
    return None if value is None else wording.count(value)


def _alerts(run: RunView) -> list[str]:
    """Return what a reader must know before trusting a number."""
    failures = number(run.manifest, "failures") or 0
    gone = table.skipped(run.cells)
    found = [*_older(run), *_same_machine(run), *_needed_images(run)]
    images = _images(run)
    if images is not None and images < FEWEST:
        figure = unit_of(*run.cells).name
        found.append(f"{'One image is' if images == 1 else f'{images:.0f} images are'} too few for any difference of {figure} to "
                     f"be significant, and for any claim of none; take {FEWEST} at the least.")  # fmt: skip
    if failures:
        listed = run.manifest.get("failed") or []
        why = [f"{part['reason']} ({wording.count(part['samples'])})" for part in listed[:_REASONS]]
        why += ["further reasons"] if len(listed) > _REASONS else []
        found.append(f"{failures:,.0f} samples failed in this run and are left out of its figures"
                     f"{': ' if why else ''}{'; '.join(why)}. python -m harness samples RUN --failed lists them.")  # fmt: skip
    found += timing.alerts(run.cells)
    found += [
        note for note in (removes_note(run.cells), *same_notes(run.cells), tiles_note(run.cells), marks_note(run.cells)) if note
    ]
    if gone:
        found.append(f"{len(gone)} {'cell was' if len(gone) == 1 else 'cells were'} skipped; the reasons stand below the table.")
    return found + [str(note) for note in run.manifest.get("notes") or []]
