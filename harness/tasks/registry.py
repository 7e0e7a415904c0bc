"""Make a task of a task expression: ``pope``, ``pope[path=FOLDER]``, ``questions.jsonl[metric=anls]``, ``photos/``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError, nearest
from harness.tasks.base import Task, TaskInfo, attribute

if TYPE_CHECKING:
    from harness.tasks.tables import Table
    from harness.tasks.tabular import Benchmark

GROUP = "prunescope.tasks"
BUNDLED = {"shapes": "harness.tasks.shapes.task:ShapesTask"}
BENCHMARKS = {
    "pope": "yes_no:POPE", "gqa": "open_ended:GQA", "textvqa": "open_ended:TEXTVQA", "vqav2": "open_ended:VQAV2",
    "mme": "yes_no:MME", "mmbench": "multiple_choice:MMBENCH", "scienceqa": "multiple_choice:SCIENCEQA",
    "seedbench": "multiple_choice:SEEDBENCH", "ai2d": "multiple_choice:AI2D", "chartqa": "open_ended:CHARTQA",
    "docvqa": "open_ended:DOCVQA", "ocrbench": "open_ended:OCRBENCH", "refcoco": "grounding:REFCOCO",
}  # fmt: skip
FILES = (
    ("<file.jsonl>", "questions on images, one JSON object a line: image, question, answer; also .json, .tsv and .csv"),
    ("<file.parquet>", "the same columns, images as bytes or paths"),
    ("<folder>", "such files; or images with prompts and no answers, ranked by loyalty alone"),
)
_REGISTERED: dict[str, Callable[..., Task]] = {}


def register(name: str) -> Callable[[Callable[..., Task]], Callable[..., Task]]:
    """Register a task class, or a function that makes a task, under a name.

    The arguments that the class or function takes are the task's parameters.

    Raises:
        RequestError: for a name that is taken.
    """

    def decorate(factory: Callable[..., Task]) -> Callable[..., Task]:
        known = _REGISTERED.get(name)
        if name in BUNDLED or name in BENCHMARKS or (known is not None and known.__module__ != factory.__module__):
            raise RequestError(f"task {name!r} is already registered")
        _REGISTERED[name] = factory
        return factory

    return decorate


def registered() -> tuple[str, ...]:
    """Return the names that `register` was called with, in order."""
    return tuple(_REGISTERED)


def create(expression: str) -> Task:
    """Make the task of an expression: ``name``, ``name[param=value,...]``, or the same with a path or a hub id for the name.

    A benchmark takes ``path`` (local files), ``split`` and ``hub`` (another data set of the same columns), and some take
    parameters of their own, such as ``textvqa[ocr=true]``; files take ``metric`` and ``split``, a folder of images ``prompt``.

    Raises:
        RequestError: with the nearest choice for an unknown name or parameter; with the place for a broken file.
    """
    name, options = parse(expression)
    if name in BENCHMARKS:
        return _benchmark(name, options)
    if name in BUNDLED:
        return _made(name, _load(BUNDLED[name]), options)
    if name in _REGISTERED:
        return _made(name, _REGISTERED[name], options)
    for point in _points():
        if point.name == name:
            return _made(name, _plugged(point), options)
    if _there(name):
        return _from_path(expression, Path(name), options)
    for benchmark in BENCHMARKS:
        if name in _spec(benchmark).repositories:
            return _benchmark(benchmark, {"hub": name, **options})
    if Path(name).suffix or "/" in name or "\\" in name:
        return _from_path(expression, Path(name).expanduser(), options)
    raise RequestError(f"unknown task {name!r}; {nearest(name, names())}")


def names() -> list[str]:
    """Return the names of all tasks that have one."""
    return list(dict.fromkeys([*BUNDLED, *BENCHMARKS, *_REGISTERED, *(point.name for point in _points())]))


def infos() -> list[TaskInfo]:
    """Return the facts of all tasks, and of the kinds of files that make one; nothing is downloaded or read."""
    found = [_load(target).info for target in BUNDLED.values()]
    found += [_spec(name).info for name in BENCHMARKS]
    found += [_info(name, factory) for name, factory in _REGISTERED.items()]
    found += [_info(point.name, _plugged(point)) for point in _points() if point.name not in _REGISTERED]
    kinds = "exact, vqa, anls, relaxed, choice, contains, yes_no or numeric[tolerance=0.05], a share of the right answer"
    return found + [TaskInfo(name, text, "local", "the user's own", kinds, "all", (), False) for name, text in FILES]


def is_public(expression: str) -> bool:
    """Return whether a task is a public benchmark whose data come from the hub."""
    name, options = parse(expression)
    return name in BENCHMARKS and "path" not in options


def published_questions(expression: str) -> int | None:
    """Return how many questions the split of a public benchmark has; None where that is not published. Nothing is downloaded."""
    name, options = parse(expression)
    if not is_public(expression) or "hub" in options:
        return None
    spec = _spec(name)
    return spec.sizes.get(options.get("split", spec.info.split))


def parse(expression: str) -> tuple[str, dict[str, str]]:
    """Split ``name[a=1,b=c]`` into the name and the parameters' texts; the path of an existing file may itself have brackets.

    Raises:
        RequestError: for an empty text, or brackets that cannot be read.
    """
    text = expression.strip()
    if not text:
        raise RequestError(f"--task: name a task or a file; {nearest('', names())}")
    if not text.endswith("]") or _there(text):
        return text, {}
    from methods.registry import MethodError, parameters

    depth, start = 0, len(text)
    while start > 0 and (start == len(text) or depth):
        start -= 1
        depth += (text[start] == "]") - (text[start] == "[")
    name, inside = text[:start], text[start + 1 : -1]
    if depth or not name.strip():
        raise RequestError(f"cannot read task {text[:60]!r}; write name or name[param=value,...]")
    try:
        return name.strip(), parameters(inside, f"task {text[:60]!r}")
    except MethodError as error:
        raise RequestError(str(error)) from None


def _there(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _benchmark(name: str, options: dict[str, str]) -> Task:
    from harness.tasks import hub
    from harness.tasks.files import tables
    from harness.tasks.tabular import TabularTask

    spec = _spec(name)
    _known(name, options, ("path", "split", "hub", *spec.parameters))
    for parameter, change in spec.parameters.items():
        spec = change(spec, options[parameter]) if parameter in options else spec
    repositories = hub.both_names(options["hub"]) if "hub" in options else spec.repositories
    split, apart = options.get("split", spec.info.split), spec.images
    if "path" not in options:
        parts, origin = hub.load(name, repositories, spec.configs, split)
        spec = replace(spec, info=replace(spec.info, source=origin.repository, split=split))
        return TabularTask(spec, *_told_apart(*parts), check=False, origin=origin)
    path = Path(options["path"]).expanduser()
    spec = replace(spec, info=replace(spec.info, source=options["path"], split=split))
    found = tables(path, name, split, spec.config)
    if apart is None or path.is_file():
        return TabularTask(spec, found)
    return TabularTask(spec, *_told_apart(found, tables(path, name, split, apart.config)))


def _told_apart(found: list[Table], beside: Sequence[Table] = ()) -> tuple[list[Table], list[Table]]:
    """Tables of questions, and where there are any, those of images alone."""
    rows = [table for table in found if "question" in table.columns] or found
    return rows, [table for table in beside if "question" not in table.columns]


def _from_path(expression: str, path: Path, options: dict[str, str]) -> Task:
    from harness.tasks.files import existing, table_files, tables
    from harness.tasks.generic import from_tables

    if existing(path, expression).is_dir() and not table_files(path):
        from harness.tasks.image_folder import ImageFolderTask

        _known(expression, options, ("prompt",))
        return ImageFolderTask(expression, path, options.get("prompt"))
    _known(expression, options, ("metric", "split"))
    return from_tables(expression, tables(path, expression, options.get("split")), options.get("metric"))


def _known(name: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    for key in options:
        if key not in known:
            raise RequestError(f"task {name!r} has no parameter {key!r}; {nearest(key, known)}")


def _made(name: str, factory: Callable[..., Task], options: dict[str, str]) -> Task:
    """The task that a class or function makes of its parameters, if it is one."""
    takes = inspect.signature(factory).parameters.values()
    named = {one.name: one for one in takes if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    if options and not takes:
        raise RequestError(f"task {name!r} takes no parameters")
    if not any(one.kind is one.VAR_KEYWORD for one in takes):
        _known(name, options, tuple(named))
    lacking = next((key for key, one in named.items() if one.default is one.empty and key not in options), None)
    if lacking is not None:
        raise RequestError(f"task {name!r} needs parameter {lacking!r}: {name}[{lacking}=...]")
    made = factory(**options)
    if not isinstance(attribute(made, "info"), TaskInfo):
        raise RequestError(f"task {name!r}: its `info` is no TaskInfo; see docs/tasks.md")
    for method in ("samples", "score"):
        if not callable(attribute(made, method)):
            raise RequestError(f"task {name!r} has no method {method!r}; see docs/tasks.md")
    return made


def _info(name: str, factory: Callable[..., Task]) -> TaskInfo:
    info = getattr(factory, "info", None)
    return info if isinstance(info, TaskInfo) else _made(name, factory, {}).info


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP))


@cache
def _plugged(point: EntryPoint) -> Callable[..., Task]:
    try:
        factory: Callable[..., Task] = point.load()
        return factory
    except (Exception, SystemExit) as error:
        first = (str(error).splitlines() or [""])[0][:160]
        raise RequestError(f"task {point.name!r}: its entry point cannot be imported ({type(error).__name__}: {first})") from None


def _spec(name: str) -> Benchmark:
    spec: Benchmark = _load(f"harness.tasks.benchmarks.{BENCHMARKS[name]}")
    return spec


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
