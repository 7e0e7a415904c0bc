"""What our own code never does: run texts, unpickle, start a shell, trust a repository's code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("methods", "metrics", "harness", "reports") for path in (ROOT / package).rglob("*.py")) + [
    ROOT / "prunescope.py"
]
NO_CALL = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.unsafe_load",
    "joblib.load",
    "pickle.load", "pickle.loads", "marshal.loads", "pd.read_pickle", "pandas.read_pickle", "subprocess.getoutput", "pty.spawn",
    "runpy.run_path", "tempfile.mktemp", "np.fromfile", "np.memmap", "torch.hub.load", "torch.jit.load",
}  # fmt: skip
NO_IMPORT = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "pty", "telnetlib"}
ALWAYS = {"trust_remote_code": False, "allow_pickle": False, "shell": False, "use_safetensors": True, "weights_only": True}
"""Arguments that have one value wherever they stand."""
KNOWN = {
    "harness/models/tiny/train.py": "calls torch.load",  # the training script's own checkpoints, weights_only
    "harness/run/executors/base.py": "imports pickle",  # dumps alone: whether an error can be sent from a worker
}
LOADERS = {"AutoProcessor", "AutoTokenizer", "AutoConfig", "AutoModel", "config_class"}


def name_of(node: ast.expr) -> str:
    """A dotted name, of what follows ``builtins`` too; empty of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}".removeprefix("builtins.")
    return ""


def faults(tree: ast.AST) -> Iterator[str]:
    """What a module does that none may."""
    for node in ast.walk(tree):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{where}: imports {name}" for name in names if name.partition(".")[0] in NO_IMPORT)
        elif isinstance(node, ast.Call):
            called = name_of(node.func)
            if called in NO_CALL:
                yield f"{where}: calls {called}"
            for keyword in node.keywords:
                given = keyword.value.value if isinstance(keyword.value, ast.Constant) else keyword.value
                if keyword.arg in ALWAYS and given is not ALWAYS[keyword.arg]:
                    yield f"{where}: {keyword.arg} is not {ALWAYS[keyword.arg]}"
            if called.startswith("subprocess.") and node.args and isinstance(node.args[0], (ast.Constant, ast.JoinedStr)):
                yield f"{where}: {called} of one text"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values):
                if isinstance(key, ast.Constant) and key.value in ALWAYS:
                    given = value.value if isinstance(value, ast.Constant) else value
                    if given is not ALWAYS[key.value]:
                        yield f"{where}: {key.value} is not {ALWAYS[key.value]}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_it_reads(path):
    known = KNOWN.get(path.relative_to(ROOT).as_posix())
    found = [fault for fault in faults(ast.parse(path.read_text("utf-8"))) if fault.partition(": ")[2] != known]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)", "import pickle", "from joblib import load", "torch.load(p)", "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=x)",
        "subprocess.run(c, shell=True)", "subprocess.run(f'ls {x}')", "f(trust_remote_code=True)", "a = {'trust_remote_code': x}",
        "m.from_pretrained(p, use_safetensors=False)", "import yaml", "builtins.exec(x)", "def f():\n    import marshal",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text):
    assert len(list(faults(ast.parse(text)))) == 1


def test_models_come_from_safetensors_alone():
    """Every model that is loaded by name asks for safetensors."""
    found = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
                found += 1
                loads_weights = name_of(node.func.value).rpartition(".")[2] not in LOADERS
                given = {keyword.arg for keyword in node.keywords}
                assert not loads_weights or given & {"use_safetensors", None}, f"{path}:{node.lineno}"
    assert found >= 4
