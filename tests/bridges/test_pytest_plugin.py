"""The fixture that other projects use, in a pytest of its own."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from harness.results.current_summary import current_summary
from harness.store.runs import RunFolder

pytest_plugins = ("pytester",)
INSTALLED = any(point.value == "harness.bridges.pytest_plugin" for point in entry_points(group="pytest11"))


@pytest.fixture
def tests(pytester):
    """Runs a file of tests with the plug-in, as a project that installed it would."""

    def run(text: str, *options: str):
        pytester.makepyfile(text)
        loaded = () if INSTALLED else ("-p", "harness.bridges.pytest_plugin")
        return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:benchmark", *loaded, *options)

    return run


def test_a_comparison_and_what_must_hold_of_it(tests):
    result = tests("""
        import pytest
        from harness.errors import RequestError

        @pytest.fixture(scope="module")
        def run(prunescope):
            return prunescope.compare(
                methods=["grid"], keep=[64], samples=1, latency=False, analyse=0, seeds=1, max_new_tokens=2
            )

        def test_what_holds(prunescope, run):
            prunescope.assert_retention(run, "grid", 64, at_least=0.01)
            prunescope.assert_flops(run, "grid", 64, at_most=0.5)
            prunescope.assert_flops(run, "grid", at_most=1e12)
            prunescope.assert_no_drift(run, run.folder, "grid", 64, jaccard=1.0)
            prunescope.assert_no_regression(run, str(run.folder))

        def test_what_does_not(prunescope, run):
            prunescope.assert_retention(run, "grid", 64, at_least=1.5)

        def test_wrong(prunescope):
            with pytest.raises(RequestError, match="did you mean 'grid'"):
                prunescope.compare(methods="grd", keep=64)
    """)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["E*AssertionError: grid at 64 keeps * of the accuracy of none, at least 150.0% is asked; accuracy *"]
    )


CASES = [
    ('assert_retention(one, "sts", 64, at_least=1.2)', "sts at 64 keeps * of the accuracy of none, at least 120.0% is asked*"),
    ('assert_flops(one, "sts", 64, at_most=0.05)', "sts at 64 costs *% of the FLOPs of none to the first token, at most 5.0%*"),
    ('assert_flops(one, "sts", 64, at_most=10)', "sts at 64 costs * FLOPs to the first token, at most 10 are asked"),
    ('assert_no_drift(other, one, "fastv", 24)', "fastv at 24 drifted: kept tokens of 24 questions agree to 0.*at least 0.9*"),
    (
        'assert_no_drift(other, one, "random", 24)',
        "random at 24 drifted: *at least 0.9 is asked; its choice depends on the seed*",
    ),
    ('assert_no_drift(other, one, "tome", 24)', "tome at 24: merged tokens are no subset*"),
    ('assert_no_drift(other, one, "dart", 24)', "*run0 has no cell dart at 24; it has none, blind, downsample at 64*"),
    ('assert_retention(one, "sts", at_least=0.5)', "*has 2 cells sts; it has sts at 64, sts at 24"),
    ('assert_retention(other, "sts", 64, at_least=0.1)', "sts at 64 was skipped: no CLS"),
    ("assert_no_regression(other, one)", "*run1 is worse than *run0:"),
]


def test_messages(tests, make_run):
    one = make_run(images=range(4))
    other = make_run(images=range(4), seed=1, drift={("fastv", 24): 0.5}, skipped={("sts", 64): "no CLS"})
    calls = "\n".join(f"    lambda p: p.{call}," for call, _ in CASES)
    result = tests(
        "import pytest\n\n"
        f"one, other = {str(one.folder)!r}, {str(other.folder)!r}\n"
        f"CALLS = [\n{calls}\n]\n\n"
        '@pytest.mark.parametrize("call", CALLS)\ndef test(prunescope, call):\n    call(prunescope)\n'
    )
    result.assert_outcomes(failed=len(CASES))
    result.stdout.fnmatch_lines([f"E*AssertionError: {message}" for _, message in CASES])
    result.stdout.fnmatch_lines(["E*drift, fastv at 24: kept tokens of 24 questions agree to 0.*"])
    result.stdout.no_fnmatch_line("*def _fail*")


FIGURES = [
    ("F1", 100.0, False, "keeps 90.0% of the F1 of none, at least 95.0% is asked; F1 61.8% [[]55.0% to 68.1%] on 24 questions*"),
    ("MME total", 2800.0, True,
     "keeps 90.0% of the MME total of none, *; MME total 1,730.4 of 2,800 [[]1,540.0 to 1,906.8] (partial) on 24 questions*"),
    ("circular accuracy", 100.0, False, "keeps * of the circular accuracy of none, *; * 61.8% [[]55.0% to 68.1%] on *"),
    ("accuracy", 100.0, True, "keeps 90.0% of the accuracy of none, *; accuracy *% [[]*% to *%] (partial) on 24 questions*"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "scale", "partial", "message"), FIGURES, ids=[case[0] for case in FIGURES])
def test_retention_names_the_figure_that_leads(tests, make_run, name, scale, partial, message):
    run = make_run(images=range(4))
    summary = json.loads((run.folder / "summary.json").read_text())
    score = {"name": name, "value": 0.618 * scale, "lo": 0.55 * scale, "hi": 0.681 * scale, "scale": scale, "partial": partial}
    for cell in summary["cells"]:
        cell |= {"score": score, "retention": 0.9}
    run.write_json("summary.json", summary)
    result = tests(f"def test(prunescope):\n    prunescope.assert_retention({str(run.folder)!r}, 'sts', 64, at_least=0.95)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E*AssertionError: sts at 64 {message}"])


BOUNDS = [  # without a scale: of a run of an older version, which tells accuracy alone
    ("accuracy", None, 0.0, 0.0, "accuracy 0.0% [[]0.0% to 0.0%] on 24 *"),
    ("accuracy", None, None, None, "accuracy 0.0% [[]no interval] on 24 *"),
    ("accuracy", 100.0, 0.0, 0.0, "accuracy 0.0% [[]0.0% to 0.0%] on 24 *"),
    ("F1", 100.0, 0.0, 0.0, "F1 0.0% [[]0.0% to 0.0%] on 24 *"),
    ("OCRBench total", 1000.0, 0.0, 0.0, "OCRBench total 0.0 of 1,000 [[]0.0 to 0.0] on 24 *"),
    ("accuracy", 100.0, None, None, "accuracy 0.0% [[]no interval] on 24 *"),
    ("MME total", 2800.0, None, None, "MME total 0.0 of 2,800 [[]no interval] on 24 *"),
]


@pytest.mark.parametrize(("name", "scale", "lo", "hi", "message"), BOUNDS)
def test_an_interval_that_ends_at_nothing_and_one_that_is_not_known(tests, make_run, name, scale, lo, hi, message):
    """A method that gets nothing right, on many images and on one."""
    run = make_run(images=range(4))
    summary = json.loads((run.folder / "summary.json").read_text())
    found = {"value": 0.0, "lo": lo, "hi": hi}
    for cell in summary["cells"]:
        cell |= {"accuracy": found, "retention": 0.0}
        if scale is not None:
            cell["score"] = {**found, "name": name, "scale": scale, "partial": False}
    run.write_json("summary.json", summary)
    result = tests(f"def test(prunescope):\n    prunescope.assert_retention({str(run.folder)!r}, 'sts', 64, at_least=0.95)\n")
    result.stdout.fnmatch_lines([f"E*sts at 64 keeps 0.0% of the {name} of none, at least 95.0% is asked; {message}"])


def test_a_drop_that_cannot_be_told_from_chance_is_a_warning(tests, make_run):
    one, worse = make_run(images=range(6)), make_run(images=range(6), worse={("sts", 64): 1.0})
    call = f"prunescope.assert_no_regression({str(worse.folder)!r}, {str(one.folder)!r})"
    result = tests(f"def test(prunescope):\n    {call}\n\ndef test_equal(prunescope):\n    {call.replace('run1', 'run0')}\n")
    result.assert_outcomes(passed=2)
    assert sum("UserWarning" in line for line in result.outlines) == 1, "an installed plug-in adds warnings of pytest's own"
    result.stdout.fnmatch_lines(["*accuracy, sts at 64 is not judged: *; 6 images are too few to tell that from chance"])


def test_options_of_this_repository_do_not_clash(tests, pytester):
    pytester.makeconftest("""
        def pytest_addoption(parser):
            parser.addoption("--benchmark", action="store_true")
    """)
    tests("def test(prunescope, pytestconfig):\n    assert pytestconfig.getoption('--benchmark')", "--benchmark").assert_outcomes(
        passed=1
    )


def test_loading_it_costs_nothing():
    code = """
import sys, time, pytest
before = set(sys.modules)
start = time.perf_counter()
import harness.bridges.pytest_plugin
took = time.perf_counter() - start
heavy = {"numpy", "torch", "transformers", "scipy", "typer", "jinja2", "pandas"} & (set(sys.modules) - before)
print(heavy or "light", took < 0.1, len(set(sys.modules) - before) < 12)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["light", "True", "True"]


@pytest.mark.parametrize(
    ("retention", "message"),
    [
        ({"value": 0.9, "lo": 0.843, "hi": 0.951}, "keeps 90.0% [[]84.3% to 95.1%] of the accuracy of none, *"),
        ({"value": 0.9, "lo": None, "hi": None}, "keeps 90.0% of the accuracy of none, *"),
        ({"value": None, "lo": None, "hi": None}, "no retention was measured; *"),
        (None, "no retention was measured; *"),
    ],
)  # fmt: skip
def test_retention_is_judged_by_its_value_and_told_with_its_interval(tests, make_run, retention, message):
    run = make_run(images=range(4))
    summary = json.loads((run.folder / "summary.json").read_text())
    for cell in summary["cells"]:
        cell["retention"] = retention
    run.write_json("summary.json", summary)
    call = f"prunescope.assert_retention({str(run.folder)!r}, 'sts', 64, at_least={{}})"
    low, high = (f"def test_{name}(prunescope):\n    {call.format(least)}\n" for name, least in (("low", 0.9), ("high", 0.92)))
    result = tests(f"{low}\n\n{high}")
    known = retention is not None and retention["value"] is not None
    result.assert_outcomes(passed=int(known), failed=2 - int(known))
    result.stdout.fnmatch_lines([f"E*AssertionError: sts at 64*{message}"])


def test_a_run_of_an_older_version_is_judged_by_the_rules_of_this_one(tests, make_run):
    run = make_run(images=range(8))
    for name in ("manifest.json", "summary.json"):
        content = json.loads((run.folder / name).read_text())
        for cell in content.get("cells", []):
            cell["retention"] = 0.01
        run.write_json(name, content | {"schema_version": 4})
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.suffix == ".json"}
    cells = current_summary(RunFolder(run.folder, read_only=True))["cells"]
    kept = next(cell["retention"]["value"] for cell in cells if (cell["method"], cell["keep"]) == ("sts", 64))
    call = f"prunescope.assert_retention({str(run.folder)!r}, 'sts', 64, at_least={kept - 1e-9!r})"
    result = tests(f"def test_one(prunescope):\n    {call}\n\n\ndef test_two(prunescope):\n    {call}\n", "-s")
    result.assert_outcomes(passed=2)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir() if path.suffix == ".json"} == before
