"""A comparison of two builds as Markdown for a pull request, as JUnit XML for a CI system, and as a page."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

from harness.store.verdicts import RULES, Comparison, Verdict
from reports import wording
from reports.marks import code, inert

_ROWS, _CHANGED = 20, 10  # of what failed and of what changed, in a pull request; the page shows all
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def markdown(found: Comparison) -> str:
    """Return a short comment: the verdict, what failed, what changed within the thresholds, and what is new.

    Args:
        found: all verdicts.

    Returns:
        Markdown that ends in a newline; names stand in it as text alone.
    """
    lines = [f"**{headline(found)}** {counted(found)}", "", f"{code(found.baseline)} → {code(found.candidate)}"]
    lines += (
        ["", *(f"> {inert(note)}" + ("  " if note != found.notes[-1] else "") for note in found.notes)] if found.notes else []
    )
    if found.failed:
        lines += ["", "| Rule | Cell | What |", "|---|---|---|"]
        lines += _limited([f"| {v.rule} | {code(v.cell)} | {inert(v.text)} |" for v in found.failed], "| … | | {} more |")
    moved = changed(found)
    if moved:
        lines += ["", "Changed within the thresholds:", "", "| Cell | Figure | Baseline | Candidate |", "|---|---|---:|---:|"]
        lines += _limited(
            [f"| {code(v.cell)} | {v.figure} | {value(v.baseline, v)} | {value(v.candidate, v)} |" for v in moved],
            "| … | {} more | | |",
            _CHANGED,
        )
    new = [v for v in found.verdicts if v.rule == "new"]
    if new:
        lines += ["", "New: " + ", ".join(code(v.cell) for v in new[:_ROWS]) + _rest(len(new))]
    waived = [v for v in found.verdicts if v.status == "noted" and v.rule not in ("new", "agreement")]
    if waived:
        lines += ["", "Found by rules that judge nothing here:", ""]
        lines += _limited([f"- {v.rule}, {code(v.cell)}: {inert(v.text)}" for v in waived], "- {} more")
    if found.of("not judged"):
        lines += ["", "Not judged: " + "; ".join(unjudged(found)) + "."]
    return "\n".join(lines) + "\n"


def junit(found: Comparison) -> str:
    """Return JUnit XML: one test suite a rule, one test case a cell; failures with their text, what was not judged as skipped.

    Args:
        found: all verdicts.

    Returns:
        XML 1.0; characters that it cannot hold are replaced.
    """
    counts = found.counts()
    total = {"tests": str(len(found.verdicts)), "failures": str(counts["failed"]), "skipped": str(counts["not judged"])}
    root = ElementTree.Element("testsuites", {"name": "prunescope regress", "errors": "0", "time": "0", **total})
    for rule in dict.fromkeys(v.rule for v in found.verdicts):
        mine = [v for v in found.verdicts if v.rule == rule]
        states = Counter(v.status for v in mine)
        suite = ElementTree.SubElement(
            root, "testsuite", name=rule, tests=str(len(mine)), failures=str(states["failed"]),
            skipped=str(states["not judged"]), errors="0", time="0",
        )  # fmt: skip
        for verdict in mine:
            case = ElementTree.SubElement(suite, "testcase", classname=f"prunescope.{rule}", name=_xml(verdict.cell), time="0")
            if verdict.status == "failed":
                failure = ElementTree.SubElement(case, "failure", message=_xml(verdict.text), type=rule)
                failure.text = _xml(f"{verdict.cell}: {verdict.text}")
            elif verdict.status == "not judged":
                ElementTree.SubElement(case, "skipped", message=_xml(verdict.text))
            else:
                ElementTree.SubElement(case, "system-out").text = _xml(verdict.text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def html(found: Comparison) -> str:
    """Return one self-contained page that loads nothing and runs no script.

    Args:
        found: all verdicts.

    Returns:
        HTML whose Content-Security-Policy allows inline styles alone.
    """
    from reports.templating import encodable, environment, own_file

    rules = [
        {"name": rule, "meaning": RULES.get(rule, ""), "verdicts": [v for v in found.verdicts if v.rule == rule]}
        for rule in dict.fromkeys(v.rule for v in found.verdicts)
    ]
    templates = environment()
    templates.globals["value"] = value
    page = templates.get_template("regression.html.j2").render(
        found=found,
        headline=headline(found),
        counted=counted(found),
        moved=changed(found),
        rules=rules,
        style=own_file("report.css"),
        policy=_POLICY,
    )
    return encodable(page)


def headline(found: Comparison) -> str:
    """Say the verdict in a few words."""
    failed = Counter(v.rule for v in found.failed)
    if not failed:
        return "No regression."
    return f"Regression: {wording.listed([f'{rule} ({n})' if n > 1 else rule for rule, n in failed.items()])}."


def counted(found: Comparison) -> str:
    """Say in a sentence how many checks failed, on how many cells."""
    counts, cells = found.counts(), len({v.cell for v in found.verdicts})
    judged = counts["passed"] + counts["failed"]
    open_ = f"; {counts['not judged']} not judged" if counts["not judged"] else ""
    return f"{counts['failed']} of {judged} checks failed on {cells} {'cell' if cells == 1 else 'cells'}{open_}."


def changed(found: Comparison) -> list[Verdict]:
    """Return the figures that differ and did not fail, the larger changes of a rule first; times are left out."""
    moved = [
        v for v in found.verdicts
        if v.status in ("passed", "noted") and v.rule not in ("latency", "benchmarks") and v.changed
        and value(v.baseline, v) != value(v.candidate, v)
    ]  # fmt: skip
    order = list(dict.fromkeys(v.rule for v in found.verdicts))
    return sorted(moved, key=lambda v: (order.index(v.rule), -_size(v)))


def unjudged(found: Comparison) -> list[str]:
    """Say what was not judged, rule by rule, with its commonest reason."""
    said = []
    for rule in dict.fromkeys(v.rule for v in found.of("not judged")):
        mine = [v for v in found.of("not judged") if v.rule == rule]
        reason, many = Counter(v.text for v in mine).most_common(1)[0]
        said.append(f"{rule} of {len(mine)} ({inert(reason)}{', and other reasons' if many < len(mine) else ''})")
    return said


def value(number: float | None, verdict: Verdict) -> str:
    """Write a number of a verdict in its unit."""
    if number is None:
        return wording.MISSING
    if verdict.unit == "share":
        return f"{wording.percent(number)} %"
    if verdict.unit == "points":
        return wording.plain(number, 1)
    if verdict.unit == "ratio":
        return f"{wording.plain(number)}×"
    if verdict.unit == "count":
        return wording.count(number)
    if verdict.unit == "milliseconds":
        return f"{number:.4g} ms"
    return wording.signed(f"{number:.4g}")


def _size(verdict: Verdict) -> float:
    """How large a change is: of shares the difference, of other numbers relative to the baseline."""
    if verdict.baseline is None or verdict.candidate is None:
        return 0.0
    gap = abs(verdict.candidate - verdict.baseline)
    return gap if verdict.unit == "share" or not verdict.baseline else gap / abs(verdict.baseline)


def _limited(rows: list[str], rest: str, most: int = _ROWS) -> list[str]:
    return rows if len(rows) <= most else [*rows[:most], rest.format(len(rows) - most)]


def _rest(count: int) -> str:
    return f" and {count - _ROWS} more" if count > _ROWS else ""


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
