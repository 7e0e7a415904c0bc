"""One self-contained HTML page for a run: it loads nothing, works from a file, and prints."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from reports import gallery, headline, table, wording
from reports.cells import Stratum, dig, interval, keep, method, number, strata
from reports.figures import figures
from reports.figures_tokens import below_chance
from reports.view import RunView

TEMPLATES = Path(__file__).parent / "templates"


def render(run: RunView) -> str:
    """The report page.

    Args:
        run: manifest, cells of summary.json and gallery; any field of a cell may be null.

    Returns:
        HTML with styles, script, figures and images inside; its Content-Security-Policy forbids all else.
    """
    groups = strata(run.cells)
    # Markup here is our own: the two files below, and JSON that gallery.payload has made inert.
    style, script = (Markup((TEMPLATES / name).read_text("utf-8")) for name in ("report.css", "report.js"))
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            manifest=run.manifest,
            title=_title(run.manifest, groups),
            facts=_facts(run),
            alerts=_alerts(run),
            sections=[_section(group, f"s{i}") for i, group in enumerate(groups)],
            table=table.table(run.cells, groups),
            skipped=[(method(c), keep(c), str(c["skipped"])) for c in table.skipped(run.cells)],
            versions=sorted((run.manifest.get("versions") or {}).items()),
            gallery=Markup(gallery.payload(run.gallery)) if run.gallery else None,
            images=len(run.gallery),
            style=style,
            script=script,
            policy=_policy(script),
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # a model may answer half a surrogate pair


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": wording.percent, "p_text": wording.p_text}
    return found


def _policy(script: str) -> str:
    """Nothing but inline styles, data: images and this very script, known by its hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _section(group: Stratum, name: str) -> dict:
    return {
        "name": name,
        "title": f"{group.task} on {group.model}",
        "budget": group.budget,
        "worth": headline.image_worth(group),
        "headlines": headline.headlines(group),
        "figures": [{"name": f.name, "title": f.title, "caption": f.caption, "svg": Markup(f.svg)} for f in figures(group, name)],
        "below_chance": below_chance(group),
    }


def _title(manifest: dict, groups: list[Stratum]) -> str:
    names = dict.fromkeys(f"{g.task} on {g.model}" for g in groups)
    if not names:
        names = {f"{manifest.get('task') or '?'} on {manifest.get('model') or '?'}": None}
    return "Visual token pruning: " + wording.listed(list(names))


def _facts(run: RunView) -> list[tuple[str, str]]:
    """What was measured on what; facts the manifest lacks are left out."""
    m = run.manifest
    pruned = {method(c) for c in run.cells if keep(c) is not None and not c.get("skipped")}
    found = [
        ("Model", m.get("model")),
        ("Task", m.get("task")),
        ("Images", _whole(m, "samples")),
        ("Questions", _whole(m, "questions")),
        ("Analysed", f"{analysed:,.0f} images" if (analysed := number(run.checks, "analysed_images")) is not None else None),
        ("Budgets", ", ".join(map(str, m.get("budgets") or []))),
        ("Methods", f"{len(pruned)} with controls" if pruned else None),
        ("Seed", m.get("seed")),
        ("Device", m.get("device")),
        ("Precision", m.get("dtype")),
        ("Made", m.get("created")),
        ("Took", wording.duration(m.get("duration_s")) if m.get("duration_s") is not None else None),
    ]
    return [(name, str(value)) for name, value in found if value not in (None, "")]


def _same_machine(run: RunView) -> list[str]:
    """What the A/A check says: how far two timings of the same thing lie apart here."""
    ratio = interval(run.checks, "aa")
    if ratio is None:
        return []
    rounds = number(run.checks, "aa.rounds") or 0
    spread = f"[{ratio.lo:.3f} to {ratio.hi:.3f}]"
    said = f"A/A check: none against itself in the same {rounds:.0f} rounds is {ratio.value:.3f} times as fast {spread}"
    if ratio.lo > 1 or ratio.hi < 1:
        return [f"{said}. It should be 1: the machine favoured one of two equal runs, so trust no speed-up of this size."]
    return [f"{said}; speed-ups inside that range mean nothing."]


def _whole(manifest: dict, key: str) -> str | None:
    value = number(manifest, key)
    return None if value is None else wording.count(value)


def _alerts(run: RunView) -> list[str]:
    """What a reader must know before trusting a number."""
    failures = number(run.manifest, "failures") or 0
    noisy = sorted({f"{method(c)} at {keep(c)}" if keep(c) else method(c) for c in run.cells if dig(c, "latency.noisy")})
    gone = table.skipped(run.cells)
    found = _same_machine(run)
    if failures:
        found.append(f"{failures:,.0f} samples failed in this run; "
                     "python -m harness samples RUN lists what is known of them.")  # fmt: skip
    if noisy:
        found.append(f"Timing was noisy for {wording.listed(noisy)}; its intervals are wide for a reason.")
    if gone:
        found.append(f"{len(gone)} {'cell was' if len(gone) == 1 else 'cells were'} skipped; the reasons stand below the table.")
    return found + [str(note) for note in run.manifest.get("notes") or []]
