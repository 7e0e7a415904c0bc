"""Wrong files of settings: options, thresholds, and results of pytest-benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.fuzz.inputs import Wrong, wrong

NO_TOML: tuple[str | bytes, ...] = (
    "samples", "samples =", "= 3", "samples = 3 4", "samples = [", "samples = {", "[", "[]", "[[", "[a", "'", '"""',
    "samples == 3",
    "samples = 3\nsamples = 4", "samples: 3", "{}", '{"samples": 3}', "samples = 0x", "samples = 1__0", "samples = 01",
    "samples = 1.",
    "samples = .5", "samples = yes", "samples = NaN", "samples = \x00", b"\xff\xfe", b"\x80 = 1", "a = " + "[" * 100_000,
    "a = " + "{a=" * 20_000, "samples = " + "9" * 5000, "a.b.c = 1\na.b = 2", "\ufeffsamples = 3", "samples = 1e",
    "d = 2020-13-45",
    "samples = \"\\u{1}\"", "samples = '\x07'", "<toml>", "---", "\x1f\x8b",
)  # fmt: skip
OPTIONS = (
    "sampels = 3", "sample = 3", "Samples = 3", "extend = 'run'", "config = 'x.toml'", "no_latency = true", "json = true",
    "help = true",
    "[compare]\nsamples = 3", "samples = 'many'", "samples = true", "samples = 1.5", "samples = [3]", "samples = {a = 1}",
    "samples = 0",
    "samples = -1", "samples = 99999999999999999999", "samples = inf", "samples = nan", "samples = 2020-01-01", "latency = 0",
    "latency = 'yes'", "latency = []",
    "self_check = 1", "self_check = 'no'", "sharing = 'on'", "sharing = 1", "memory = 1", "resume = 1", "margin = 'wide'",
    "margin = 0",
    "margin = 1.0", "margin = -0.5", "margin = nan", "margin = inf", "margin = true", "margin = []", "methods = [true]",
    "methods = [[]]",
    "methods = [{}]", "methods = []", "methods = ''", "methods = 3", "methods = ['fastvv']", "methods = 'fastvv'",
    "methods = ['fastv[']",
    "methods = ['']", "methods = [2020-01-01]", "keep = []", "keep = ''", "keep = ['x']", "keep = [0]", "keep = [-1]",
    "keep = [1.5]",
    "keep = [nan]", "keep = [inf]", "keep = [true]", "keep = [1000000000]", "keep = [[64]]", "model = 3", "model = []",
    "model = ''",
    "model = 'nowhere'", "model = true", "task = 3", "task = ''", "task = 'nothing'", "task = 'nowhere.jsonl'", "task = []",
    "budget = 'mean'",
    "budget = 3", "prompt = 3", "prompt = ''", "prompt = 'x'", "device = 3", "device = 'tpu'", "dtype = 'half'", "dtype = 3",
    "seed = -1",
    "seed = 'x'", "seed = 1.0", "batch_size = 0", "batch-size = 0", "batch_size = 'x'", "seeds = 0", "seeds = 'x'",
    "seeds = 1000000000000",
    "analyse = -1", "analyse = 'x'", "max_new_tokens = 0", "max-new-tokens = 'x'", "max_new_tokens = 1000000000000",
    "quantize = 5",
    "quantize = 'x'", "quantize = 4.0", "revision = 3", "revision = 'main'", "device_map = 3", "device_map = true",
    "plugin = 'no_such'",
    "plugin = ['no.such']", "plugin = [true]", "plugin = {}", "out = 3", "out = 'run'", "out = true", "out = []",
    "out = 'good.npz'",
)  # fmt: skip
THRESHOLDS = (
    "accuracy = 3", "accuracy = 'x'", "accuracy = []", "[[accuracy]]\ntolerance = 1", "[acuracy]\ntolerance = 0.1", "[Accuracy]",
    "[accuracy]\ntolerence = 0.1", "[accuracy]\ntolerance = 'x'", "[accuracy]\ntolerance = -1", "[accuracy]\ntolerance = nan",
    "[accuracy]\ntolerance = inf", "[accuracy]\ntolerance = true", "[accuracy]\ntolerance = []", "[accuracy]\ntolerance = {}",
    "[accuracy]\nlevel = 0", "[accuracy]\nlevel = 1", "[accuracy]\nlevel = 2", "[accuracy]\nlevel = -0.1",
    "[accuracy]\nlevel = nan",
    "[accuracy]\njudge = 1", "[accuracy]\njudge = 'yes'", "[accuracy]\njudge = []", "[drift]\njaccard = 2",
    "[drift]\njaccard = -1",
    "[drift]\njaccard = nan", "[drift]\njaccard = 'x'", "[diversity]\nfigures = 'effective_rank'", "[diversity]\nfigures = [3]",
    "[diversity]\nfigures = ['efective_rank']", "[diversity]\nfigures = {}", "[diversity]\nfigures = [[]]",
    "[benchmarks]\nmin_rounds = 0",
    "[benchmarks]\nmin_rounds = 1.5", "[benchmarks]\nmin_rounds = inf", "[benchmarks]\nmin_rounds = nan",
    "[benchmarks]\nmin_rounds = -3",
    "[benchmarks]\nmin_rounds = 'x'", "[benchmarks]\ntolerance = 2020-01-01", "[latency]\ntolerance = ''",
    "[flops]\nother_questions = -1",
    "[schedule]\nadaptive = 'x'", "[failures]\ntolerance = nan", "[vanished]\ntolerance = 1", "[skipped]\njudge = 0",
    "[new]\njudge = true",
    "[kv_bytes]\nlevel = 0.1", "judge = true", "tolerance = 0.1", "[accuracy.more]\na = 1",
)  # fmt: skip


def settings() -> Iterator[Wrong]:
    """Files of options and of thresholds."""
    for text in (*NO_TOML, *OPTIONS):
        yield wrong("compare --config sweep.toml", sweep__toml=text)
    for text in (*NO_TOML, *THRESHOLDS):
        yield wrong("regress run run --thresholds t.toml", t__toml=text)


def entry(**changed) -> dict:
    return {"fullname": "tests/a.py::b", "stats": {"median": 0.1, "rounds": 10}, **changed}


def benchmarks() -> Iterator[Wrong]:
    """Files that pytest-benchmark did not write."""
    good = json.dumps({"benchmarks": [entry()]}).encode()
    wrong_stats = (None, 3, [], {}, {"median": 1}, {"rounds": 1}, {"median": "x", "rounds": 1}, {"median": None, "rounds": 1},
                   {"median": [], "rounds": 1}, {"median": 1, "rounds": None}, {"median": 1, "rounds": "x"}, {"median": 1,
                   "rounds": {}})  # fmt: skip
    contents: list[object] = [
        {}, [], None, 3, "text", True, {"benchmarks": None}, {"benchmarks": 3}, {"benchmarks": [3]}, {"benchmarks": [None]},
        {"benchmarks": [[]]}, {"benchmarks": [{}]}, {"benchmarks": ["x"]}, {"benchmarks": {"a": 1}},
        {"benchmarks": [entry(extra_info=3)]},
        {"benchmarks": [entry(extra_info=[1])]}, {"benchmarks": [{"stats": {"median": 1, "rounds": 1}}]},
        {"benchmarks": [entry()], "machine_info": 3}, {"benchmarks": [entry()], "machine_info": {"cpu": 3}},
        *({"benchmarks": [entry(stats=stats)]} for stats in wrong_stats),
    ]  # fmt: skip
    texts = [json.dumps(one) for one in contents]
    texts += ["", "{", "[" * 100_000, '{"benchmarks": NaN}',
    '{"benchmarks": [{"fullname": "a", "stats": {"median": 1e999, "rounds": 1}}]}',
              '{"benchmarks": [{"fullname": "a", "stats": {"median": NaN, "rounds": 1}}]}', "\x00",
              '{"benchmarks": ' + "9" * 5000 + "}"]  # fmt: skip
    for text in texts:
        yield Wrong(("regress", "before.json", "after.json"), {"before.json": good, "after.json": text.encode()})
    yield Wrong(("regress", "before.json", "run"), {"before.json": good})
    yield Wrong(("regress", "run", "after.json"), {"after.json": good})
    yield Wrong(("regress", "before.json", "nowhere.json"), {"before.json": good})
    yield Wrong(("regress", "before.json", "after.json"), {"before.json": good, "after.json": b"\xff\xfe"})
