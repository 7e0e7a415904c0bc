"""A comparison as Markdown, JUnit XML and a page: complete, short, and inert to hostile names."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from harness.store.verdicts import RULES, Comparison, Verdict
from reports.regression import headline, html, junit, markdown

HOSTILE = (
    "<script>alert(1)</script>", "a|b", "a\\|b | c", "`code`", "[x](http://evil.example)", "![x](https://evil.example/i.png)",
    "@everybody", "*bold* _it_ #1", "line\nbreak\r\n| x |", "\x00\x1b[31m\ud800", "]]>&amp;\"'", "www.evil.example",
)  # fmt: skip
VERDICTS = (
    Verdict("accuracy", "sts at 64", "failed", "-5.1 points [-7.0 to -3.2]", 0.8, 0.749, "accuracy", "share"),
    Verdict("accuracy", "tome at 64", "passed", "-0.5 points", 0.7, 0.695, "accuracy", "share"),
    Verdict("accuracy", "none", "passed", "+0.0 points", 0.9, 0.9, "accuracy", "share"),
    Verdict("latency", "sts at 64", "passed", "1.5 to 1.4", 1.5, 1.4, "speed-up over none", "ratio"),
    Verdict("latency", "fastv at 64", "not judged", "the change is known to 20 % only", 1.5, 0.4, "speed-up over none", "ratio"),
    Verdict("drift", "fastv at 64", "passed", "agree to 0.981", 1.0, 0.981, "Jaccard of kept tokens", "number"),
    Verdict("flops", "sts at 64", "noted", "on an equal schedule", 1e9, 2e9, "FLOPs to the first token", "number"),
    Verdict("vanished", "vtw at 64", "failed", "the candidate has no such cell"),
    Verdict("agreement", "sts at 64", "noted", "97 % are equal", 1.0, 0.97, "equal answers", "share"),
    Verdict("new", "dart at 64", "noted", "the baseline has no such cell"),
)
FOUND = Comparison("main:runs/base", "runs/new", VERDICTS, (("Model", "tiny"),), ("The runs had different weights.",))


def hostile() -> Comparison:
    said = {"accuracy": "failed", "drift": "not judged", "flops": "passed", "new": "noted", "skipped": "noted"}
    verdicts = [
        Verdict(rule, name, status, f"{name} said so", 1.0, 2.0, "accuracy", "share")
        for name in HOSTILE
        for rule, status in said.items()
    ]
    return Comparison(HOSTILE[0], HOSTILE[1], tuple(verdicts), ((HOSTILE[0], HOSTILE[4]),), HOSTILE)


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_markdown():
    lines = markdown(FOUND).splitlines()
    assert lines[0] == "**Regression: accuracy and vanished.** 2 of 6 checks failed on 6 cells; 1 not judged."
    assert lines[2] == "`main:runs/base` → `runs/new`" and lines[4] == "> The runs had different weights."
    assert "| accuracy | `sts at 64` | -5.1 points \\[-7.0 to -3.2\\] |" in lines
    changed = lines[lines.index("Changed within the thresholds:") :]
    assert (
        "| `tome at 64` | accuracy | 70.0 % | 69.5 % |" in changed
        and "| `fastv at 64` | Jaccard of kept tokens | 1 | 0.981 |" in changed
    )
    assert not any("speed-up" in line or "`none`" in line for line in changed)
    assert "New: `dart at 64`" in lines and "- flops, `sts at 64`: on an equal schedule" in lines
    assert lines[-1] == "Not judged: latency of 1 (the change is known to 20 % only)."


def test_nothing_to_say():
    quiet = Comparison("a", "b", (VERDICTS[2],))
    assert markdown(quiet) == "**No regression.** 0 of 1 checks failed on 1 cell.\n\n`a` → `b`\n"
    assert headline(quiet) == "No regression." and "<p>Nothing.</p>" in html(quiet)


def test_a_pull_request_stays_short():
    many = tuple(Verdict("accuracy", f"m{i} at 64", "failed", "worse", 0.5, 0.4, "accuracy", "share") for i in range(70))
    text = markdown(Comparison("a", "b", many))
    assert "| … | | 50 more |" in text and len(text.splitlines()) < 30 and "accuracy (70)" in text.splitlines()[0]
    assert len(ElementTree.fromstring(junit(Comparison("a", "b", many))).findall(".//failure")) == 70


def test_markdown_of_hostile_names():
    text = markdown(hostile())
    for line in text.splitlines():
        outside = re.sub(r"`[^`]*`", "", line)
        assert "<script" not in outside and not re.search(r"(?<!\\)[\[\]*]", outside.replace("**", ""))
        assert "@e" not in outside and "://" not in outside and "www." not in outside and "#1" not in outside
        if line.startswith("| ") and not line.startswith("| …"):  # a cell ends at a bar that no backslash escapes
            cells = re.sub(r"\\[\\|\[\]*_]", "", line).count("|") - 1
            assert cells in (3, 4), line
    assert not any(line.startswith("x |") for line in text.splitlines())


def test_junit():
    root = ElementTree.fromstring(junit(FOUND))
    assert root.get("tests") == "10" and root.get("failures") == "2" and root.get("skipped") == "1"
    cases = {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}
    assert len(cases) == 10
    failure = cases["prunescope.accuracy", "sts at 64"].find("failure")
    assert failure.get("message") == failure.text.removeprefix("sts at 64: ") == "-5.1 points [-7.0 to -3.2]"
    assert cases["prunescope.latency", "fastv at 64"].find("skipped").get("message") == "the change is known to 20 % only"
    for suite in root.iter("testsuite"):
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))


def test_junit_of_hostile_names():
    root = ElementTree.fromstring(junit(hostile()).encode("utf-8"))
    names = [case.get("name") for case in root.iter("testcase")]
    assert names.count("<script>alert(1)</script>") == 5 and "\ufffd\ufffd[31m\ufffd" in names


def test_the_page():
    page = html(FOUND)
    read = Reader(page)
    assert "Regression: accuracy and vanished." in read.text and "-5.1 points" in read.text and "different weights" in read.text
    assert all(RULES[v.rule] in read.text for v in VERDICTS)
    policy = next(a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    for tag, attrs in read.elements:
        assert tag not in {"script", "link", "iframe", "img", "form", "base"}
        assert not any(name.startswith("on") or name == "src" for name in attrs)
        assert attrs.get("href", "#").startswith("#")
    style = "".join(re.findall(r"<style>(.*?)</style>", page, re.S))
    assert "url(" not in style and "@import" not in style and "://" not in page


def test_the_page_of_hostile_names():
    page = html(hostile())
    page.encode("utf-8")
    read = Reader(page)
    assert not any(tag in ("script", "img", "a") and attrs.get("href") != "#main" for tag, attrs in read.elements)
    assert read.text.count(HOSTILE[0]) >= 5 and HOSTILE[4] in read.text


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_meaning_and_a_place(rule):
    found = Comparison("a", "b", (Verdict(rule, "c", "failed", "t"),))
    assert f"| {rule} | `c` | t |" in markdown(found) and RULES[rule] in html(found).replace("&#39;", "'")
