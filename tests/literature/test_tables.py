"""The package's tables of published figures: names, vocabularies, sums that their sources print, and wrong rows refused."""

import csv
import io
import re
import subprocess
import sys
from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.errors import RequestError
from harness.literature import spelling
from harness.literature.figures import COUNTS, METRICS, ORIGINS, PROMPTS, UNKNOWN, PublishedFigure
from harness.literature.tables import COLUMNS, LISTED, names, published, table
from harness.tasks import registry as tasks
from harness.tasks.rules import leading_rule
from methods import registry as methods
from methods.keep import Keep
from methods.single import values
from tests.literature.printed_averages import TEXT, Average, averages

OTHERWISE = {  # what papers print of our tasks beside the leading figure
    ("mme", "MME perception"), ("mme", "MME cognition"), ("pope", "accuracy"), ("pope", "F1 by category"),
    ("pope", "F1 pooled or by category"), ("ocrbench", "accuracy"),
}  # fmt: skip
THEIRS = {("fastv", "K"), ("fastv", "ratio")}  # parameters of their code that ours does not have under that name
VALID = ["fastv", UNKNOWN, "a/b", "gqa", "accuracy", "testdev", "576", "64", "final", "LLaVA", "46.4", "a paper", "rerun"]
ROW = dict(zip(COLUMNS, VALID, strict=True))
HEADS = [  # an entry of `reproduce`, and what is said of it
    ('methods = ["a"]', "methods must be a table of texts, such as {holov = \"holov[rule=code]\"}"),
    ("methods = {fastv = 3}", "methods must be a table of texts"),
    ("methods = {fastw = 'fastv'}", "methods: 'fastw' is no method of the table; did you mean 'fastv'?"),
    ("tasks = 'gqa'", "tasks must be a table of texts"),
    ("tasks = {gqb = 'gqa'}", "tasks: 'gqb' is no task of the table; did you mean 'gqa'?"),
    ("budget = 3", "budget 3: choose from average, final, flops"),
    ("budget = 'avarage'", "budget 'avarage': did you mean 'average'?"),
    ("budget = ['average']", "budget ['average']: did you mean 'average'?"),
    ('samples = "x"', "samples 'x' must be a whole number above 0"),
    ("samples = 0", "samples 0 must be a whole number above 0"),
    ("samples = true", "samples True must be a whole number above 0"),
    ('seed = "a"', "seed 'a' must be a whole number of 0 or more"),
    ("seed = -1", "seed -1 must be a whole number of 0 or more"),
    ("options = 3", "options must be a table of options of compare"),
    ("notes = 3", "notes must be a list of sentences"),
    ('notes = "abc"', "notes must be a list of sentences"),
    ("notes = [3]", "notes must be a list of sentences"),
]  # fmt: skip
HEAD = 'title = "T"\nsource = "S"\nurl = "U"\nread = "R"\n'
WRONG = [  # what a row holds, and what is said of it
    ({"metric": "acuracy"}, "metric 'acuracy': did you mean 'accuracy'?"),
    ({"metric": "F2"}, "metric 'F2': did you mean 'F1'?"),
    ({"metric": "words"}, "metric 'words': choose from ANLS, F1"),
    ({"counts": "averages"}, "counts 'averages': did you mean 'average'?"),
    ({"counts": "Final"}, "counts 'Final': did you mean 'final'?"),
    ({"origin": "re-run"}, "origin 're-run': did you mean 'rerun'?"),
    ({"origin": "theirs"}, "origin 'theirs': choose from copied, rerun, unknown"),
    ({"prompt": "lmms_eval"}, "prompt 'lmms_eval': did you mean 'lmms-eval'?"),
    ({"prompt": "LLaVA OCR tokens"}, "prompt 'LLaVA OCR tokens': did you mean 'LLaVA, OCR tokens'?"),
    ({"value": "46,4"}, "value '46,4' must be a number as printed, or unknown"),
    ({"value": "46.4%"}, "value '46.4%' must be a number as printed"),
    ({"value": "-1"}, "value '-1' must be a number as printed"),
    ({"value": "nan"}, "value 'nan' must be a number as printed"),
    ({"value": "inf", "metric": UNKNOWN}, "value 'inf' must be a number as printed"),
    ({"value": "1e3", "metric": UNKNOWN}, "value '1e3' must be a number as printed"),
    ({"value": "\u0661\u0662"}, "value '\u0661\u0662' must be a number as printed"),
    ({"value": "146.4"}, "value 146.4 must lie between 0 and 100, the most of accuracy"),
    ({"value": "2001", "metric": "MME perception"}, "value 2001 must lie between 0 and 2000, the most of MME perception"),
    ({"tokens": "0"}, "tokens '0' must be a count of visual tokens such as 576, or unknown"),
    ({"tokens": "24x24"}, "tokens '24x24' must be a count of visual tokens"),
    ({"keep": "none"}, "keep 'none': "),
    ({"keep": "0"}, "keep '0': must be above 0"),
    ({"keep": "33.3 of 100"}, "all for the unpruned model"),
    ({"task": ""}, "task is empty; write unknown where the source does not say"),
    ({"version": "  "}, "version is empty; write unknown where the source does not say"),
    ({"method": "FastV"}, "method 'FastV': write 'fastv', its name here"),
    ({"method": "PDrop"}, "method 'PDrop': write 'pyramiddrop', its name here"),
    ({"method": "fast-v"}, "method 'fast-v': write 'fastv', its name here"),
    ({"method": "Unheard-Of"}, "method 'Unheard-Of': write 'unheard-of', its name here"),
    ({"task": "GQA"}, "task 'GQA': write 'gqa', its name here"),
    ({"task": "SQA"}, "task 'SQA': write 'scienceqa', its name here"),
    ({}, "has the same figure of the same source as line 2; leave it away"),
    ({"origin": "copied", "keep": "64"}, "has the same figure of the same source as line 2; leave it away"),
    ({"method": "fastv "}, "method 'fastv ' begins or ends with a space; write 'fastv'"),
]  # fmt: skip


def write(folder: Path, lines: list[list[str]], head: str = HEAD) -> str:
    """Write a table of the user's own; return its name."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    (folder / "mine.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    (folder / "mine.toml").write_text(head, encoding="utf-8")
    table.cache_clear()
    return str(folder / "mine.toml")


@pytest.mark.parametrize("name", names())
def test_a_table_of_the_package_says_where_it_was_read_and_holds_figures_of_the_vocabularies(name: str) -> None:
    found = table(name)
    assert (
        found.figures and found.name == name and all(text.strip() for text in (found.title, found.source, found.url, found.read))
    )
    for figure in found.figures:
        where = f"{name}.csv:{figure.line}"
        assert figure.origin in ORIGINS and figure.counts in COUNTS and figure.prompt in PROMPTS, where
        assert figure.metric in (*METRICS, UNKNOWN) and figure.table == name, where
        assert (figure.method == "none") == (figure.keep == "all"), where  # the unpruned model, and nothing else, keeps all
        assert figure.keep in ("all", UNKNOWN) or str(Keep.parse(figure.keep)) == figure.keep, where
        assert figure.number is None or 0 < figure.rounding <= 0.5, where


@pytest.mark.parametrize("name", names())
def test_no_figure_stands_in_a_table_twice(name: str) -> None:
    told = Counter(
        (f.method, f.version, f.model, f.task, f.metric, f.split, f.tokens, f.keep, f.counts, f.prompt)
        for f in table(name).figures
    )
    assert not [identity for identity, times in told.items() if times > 1]


def test_names_that_papers_use_lead_to_names_of_ours() -> None:
    assert set(spelling.METHODS.values()) <= set(methods.BUNDLED) and set(spelling.TASKS.values()) <= set(tasks.BENCHMARKS)
    assert not set(spelling.METHODS) & set(methods.BUNDLED) and not set(spelling.TASKS) & set(tasks.BENCHMARKS)
    for name in methods.BUNDLED:
        assert spelling.our_method(name) == spelling.our_method(name.upper()) == name


@pytest.mark.parametrize("figure", sorted({(f.method, f.version) for f in published() if "=" in f.version}), ids=str)
def test_parameters_of_a_version_are_written_as_in_an_expression_and_are_ours_where_the_method_is(figure) -> None:
    method, version = figure
    assert " " not in version and all(re.fullmatch(r"[A-Za-z_]+=[^=,]+", part) for part in version.split(","))
    if method in methods.BUNDLED:
        for part in version.split(","):
            name = part.partition("=")[0]
            assert (method, name) in THEIRS or name in values(f"{method}[{part}]")


def test_the_metric_of_a_task_of_ours_is_its_leading_figure_or_named_otherwise() -> None:
    for name in tasks.BENCHMARKS:
        leading = leading_rule(tasks._spec(name).rules, None, name).figure.name
        assert leading in METRICS
        for figure in published():
            if figure.task == name and figure.metric != UNKNOWN:
                assert figure.metric == leading or (name, figure.metric) in OTHERWISE, f"{figure.table}.csv:{figure.line}"


def given_average(printed: Average) -> Decimal:
    """The average that a table's figures give: of value over the whole model's, or as EADP forms it."""
    figures = table(printed.table).figures
    whole = {figure.task: Decimal(figure.value) for figure in figures if figure.method == "none"}
    row = [figure for figure in figures if (figure.method, figure.keep) == (printed.method, printed.keep)]
    if printed.table.startswith("eadp"):
        parts = [Decimal(f.value) / (20 if f.task == "mme" else 1) for f in row if f.task != "vizwiz"]
        assert len(parts) == 9
    else:
        parts = [100 * Decimal(figure.value) / whole[figure.task] for figure in row]
    return sum(parts, Decimal(0)) / len(parts)


@pytest.mark.parametrize("printed", averages(), ids=lambda a: f"{a.table}-{a.method}-{a.keep}")
def test_the_figures_give_the_average_that_their_source_prints(printed: Average) -> None:
    digits = Decimal(printed.given)
    assert given_average(printed).quantize(digits, ROUND_HALF_EVEN) == digits


def test_of_the_tables_of_llava_whose_source_prints_averages_no_whole_row_goes_unchecked() -> None:
    checked = {(average.table, average.method, average.keep) for average in averages()}
    for name in {average.table for average in averages()}:
        figures = table(name).figures
        columns = {figure.task for figure in figures if figure.method == "none"}
        rows = {(f.method, f.keep) for f in figures if f.method != "none"}
        for method, keep in rows:
            held = {figure.task for figure in figures if (figure.method, figure.keep) == (method, keep)}
            assert held < columns or (name, method, keep) in checked


@pytest.mark.parametrize("name", TEXT)
def test_what_a_table_says_of_its_averages_is_what_follows(name: str) -> None:
    kept = [average for average in averages() if average.table == name]
    said = re.search(r"(?:All|Of its|Of the) ([0-9]+) averages[^)]*\)(?: ([0-9]+))? follow", table(name).read)
    assert said is not None and int(said[1]) == len(kept)
    assert int(said[2] or said[1]) == sum(average.printed == average.given for average in kept)


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[repr(wrong) for wrong, _ in WRONG])
def test_a_wrong_row_is_refused_with_its_file_its_line_and_the_nearest_choice(
    wrong: dict[str, str], message: str, tmp_path: Path
) -> None:
    rows = [list(COLUMNS), list(ROW.values()), list((ROW | wrong).values())]
    with pytest.raises(RequestError) as refused:
        table(write(tmp_path, rows))
    assert str(refused.value).startswith(f"table {tmp_path / 'mine.csv'}: line 3: ") and message in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([list(COLUMNS), list(ROW.values())[:-1]], "line 2: must have 13 fields"),
        ([list(COLUMNS), [*ROW.values(), "more"]], "line 2: must have 13 fields"),
        ([list(COLUMNS)[:-1], list(ROW.values())[:-1]], "line 1 must name the columns method,version"),
        ([], "line 1 must name the columns method,version"),
        ([list(COLUMNS)], "mine.csv: the table has no rows"),
        ([[*COLUMNS, "notes"], [*ROW.values(), "x"]], "it has besides 'notes'"),
        ([list(COLUMNS)[1:], list(ROW.values())[1:]], "it lacks 'method'"),
        ([[*COLUMNS[1:], "methods"], list(ROW.values())], "it lacks 'method' and it has besides 'methods'"),
        ([[*COLUMNS[1:], "method"], list(ROW.values())], "it has them in another order, or twice"),
        ([[";".join(COLUMNS)], [";".join(VALID)]], "it separates them by semicolons"),
        ([[*COLUMNS, *LISTED], [*VALID, "mine", "2"]], "line 2: must have 16 fields"),
    ],
)
def test_a_wrong_shape_is_refused(rows: list[list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        table(write(tmp_path, rows))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace("url", "ulr"), "url must be a text"),
        (HEAD + 'sorce = "x"\n', "unknown entry 'sorce'; did you mean 'source'?"),
        (HEAD.replace('"R"', "3"), "read must be a text"),
        (HEAD + "reproduce = 3\n", "reproduce: must be a table"),
        (HEAD + "[reproduce]\nsample = 3\n", "reproduce: unknown entry 'sample'; did you mean 'samples'?"),
        *((f"{HEAD}[reproduce]\n{entry}\n", f"mine.toml: reproduce: {said}") for entry, said in HEADS),
        ("title = ", "is no TOML"),
    ],
)
def test_a_wrong_head_is_refused(head: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        table(write(tmp_path, [list(COLUMNS), list(ROW.values())], head))


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=re.escape("table 'restore-llava': did you mean 'restore-llava-1.5-7b'?")):
        table("restore-llava")


def test_a_file_that_a_spreadsheet_or_the_list_itself_saved_is_read(tmp_path: Path) -> None:
    name = write(tmp_path, [[*COLUMNS, *LISTED], [*VALID, "another", "7", "48.0 in a paper"]])
    (listed,) = table(name).figures
    assert (listed.table, listed.line) == ("mine", 2) and [getattr(listed, column) for column in COLUMNS] == VALID
    for suffix in (".csv", ".toml"):
        path = Path(name).with_suffix(suffix)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    table.cache_clear()
    assert table(name).figures == (listed,) and table(name).title == "T"


def test_one_value_of_two_sources_is_no_row_twice(tmp_path: Path) -> None:
    rows = [list(COLUMNS), VALID, list((ROW | {"source": "another paper"}).values()), list((ROW | {"value": "46.5"}).values())]
    assert len(table(write(tmp_path, rows)).figures) == 3


def test_the_table_of_restore_says_on_what_the_prompts_of_its_other_methods_rest() -> None:
    figures, read = table("restore-llava-1.5-7b").figures, table("restore-llava-1.5-7b").read
    by_script = {figure.method for figure in figures if figure.version.startswith("cvlab-yonsei/RESTORE")}
    others = {figure.method for figure in figures if figure.prompt != UNKNOWN} - by_script - {"none"}
    said = read[read.index("Of FastV") : read.index("README")].lower()
    assert others and all(method in said for method in others) and not any(method in said for method in by_script)


def test_a_table_without_file_is_told(tmp_path: Path) -> None:
    name = write(tmp_path, [list(COLUMNS), VALID])
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(RequestError, match=re.escape("mine.csv: cannot be read")):
        table(name)


FEW = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.sampled_from([*METRICS, *ORIGINS, *COUNTS, *PROMPTS, "all", "64", "33.3%", "fastv", "gqa"])
PRINTED = st.decimals(0, 3000, places=2).map(str)
ANY = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


def near(valid: str) -> st.SearchStrategy[str]:
    """A field that most often holds what it may."""
    return st.one_of(*[st.just(valid)] * 12, WORDS, PRINTED, ANY)


@FEW
@given(fields=st.one_of(st.tuples(*map(near, VALID)).map(list), st.lists(st.one_of(WORDS, PRINTED, ANY), max_size=14)))
@example(fields=list(ROW.values()))
@example(fields=[UNKNOWN] * len(COLUMNS))
@example(fields=["x\x00"] * len(COLUMNS))
def test_no_row_gives_anything_but_a_figure_or_a_refusal(fields: list[str], tmp_path: Path) -> None:
    try:
        found = table(write(tmp_path, [list(COLUMNS), fields])).figures
    except RequestError as error:
        assert str(error).startswith("table ")
        return
    for figure in found:
        assert isinstance(figure, PublishedFigure) and [getattr(figure, column) for column in COLUMNS] == fields
        assert figure.rounding > 0 and (figure.number is None or figure.number >= 0)
        assert figure.budget is None or str(figure.budget)


@FEW
@given(content=st.binary(max_size=200))
def test_no_bytes_give_anything_but_figures_or_a_refusal(content: bytes, tmp_path: Path) -> None:
    name = write(tmp_path, [list(COLUMNS)])
    (tmp_path / "mine.csv").write_bytes(",".join(COLUMNS).encode() + b"\n" + content)
    try:
        assert all(isinstance(figure, PublishedFigure) for figure in table(name).figures)
    except RequestError as error:
        assert str(error).startswith("table ")


def test_the_tables_need_no_torch_and_no_numpy() -> None:
    code = (
        "import sys; from harness.literature.tables import published; assert published(); "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
