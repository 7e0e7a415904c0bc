"""lmms-eval's side of the differential test: its own task of a benchmark, on rows that are written to disk for it.

All of its pipeline runs: the task's file with its functions, its preparation of the data set, its filters, `process_results`,
and its aggregation. Only GQA's preparation is left out, which would download images. Imported where lmms-eval is.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import lmms_eval
import lmms_eval.api.metrics  # registers them
import pandas
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config
from loguru import logger

from tests.tasks.conftest import cell, png

logger.remove()
datasets.disable_progress_bars()

FILES = {
    "pope": "pope/pope.yaml", "mme": "mme/mme.yaml", "mmbench": "mmbench/mmbench_en_dev_static.yaml", "gqa": "gqa/gqa.yaml",
    "scienceqa": "scienceqa/scienceqa_img.yaml", "seedbench": "seedbench/seedbench.yaml", "ai2d": "ai2d/ai2d.yaml",
    "vqav2": "vqav2/vqav2_val.yaml", "textvqa": "textvqa/textvqa_val.yaml", "chartqa": "chartqa/chartqa.yaml",
    "docvqa": "docvqa/docvqa_val.yaml", "ocrbench": "ocrbench/ocrbench.yaml", "refcoco": "refcoco/refcoco_bbox_rec_val.yaml",
}  # fmt: skip
MEANS = {"scienceqa": "exact_match", "ai2d": "exact_match", "gqa": "exact_match", "vqav2": "exact_match",
"textvqa": "exact_match",
         "chartqa": "relaxed_overall", "docvqa": "anls"}  # fmt: skip
"""Tasks whose result of an answer is its score, and under which name."""
LEADING = {**MEANS, "pope": "pope_f1_score", "mmbench": "gpt_eval_score", "seedbench": "seed_all",
"ocrbench": "ocrbench_accuracy",
           "refcoco": "refcoco_ACC@0.5"}  # fmt: skip
"""The metric that is a task's own figure; MME has two, which are added."""


@dataclass(frozen=True)
class Scored:
    """What lmms-eval makes of answers."""

    rows: list[dict[str, Any]]  # of the data set, one for each answer
    scores: list[float | None]  # None where lmms-eval ends with an error
    results: list[dict[str, Any]]  # of `process_results`
    task: Any

    def aggregated(self, place: Path) -> float:
        """Return the task's own figure by its own aggregation, without the answers that end it."""
        if "mme_perception_score" in self.task.aggregation():
            return sum(self._aggregated(metric, place) for metric in ("mme_perception_score", "mme_cognition_score"))
        return self._aggregated(LEADING[self.task.name], place)

    def _aggregated(self, metric: str, place: Path) -> float:
        known = [one[metric] for one, score in zip(self.results, self.scores) if score is not None and metric in one]
        return _call(self.task.aggregation()[metric], known, place)


def _call(function: Any, results: list[Any], place: Path) -> float:
    if "args" in inspect.signature(function).parameters:
        return float(function(results, args=SimpleNamespace(output_path=str(place))))
    return float(function(results))


def single(rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Return rows as a data set, floats in 32 bit as the hub's RefCOCO has them."""
    made = datasets.Dataset.from_list(rows)
    features = made.features.copy()
    features["bbox"] = datasets.Sequence(datasets.Value("float32"))
    return made.cast(features)


def task_on(name: str, data: datasets.Dataset, place: Path) -> Any:
    """Return lmms-eval's task on a data set, which is written to a folder and read from there."""
    config = load_yaml_config(str(Path(lmms_eval.__file__).parent / "tasks" / FILES[name]))
    if name == "gqa":
        del config["process_docs"]
    if name == "refcoco":
        images = [cell(png("green", tuple(size))) for size in data["size"]]
        data = data.remove_columns("size").add_column("image", images, feature=datasets.Image())
    datasets.DatasetDict({config["test_split"]: data}).save_to_disk(str(place))
    task = ConfigurableTask(config={**config, "dataset_path": str(place), "dataset_kwargs": {"load_from_disk": True}})
    task.name = name
    return task


def scored(name: str, data: datasets.Dataset, asked: Sequence[tuple[int, str]], place: Path) -> Scored:
    """Return what lmms-eval makes of answers to the questions of a data set.

    Args:
        name: of the task.
        data: its rows.
        asked: the number of a question, and an answer to it.
        place: a new folder.
    """
    task = task_on(name, data, place)
    docs = task.eval_docs_no_media
    metadata = {"task": name, "repeats": 1}
    task._instances = [Instance("generate_until", (), 0, {**metadata, "doc_id": doc}, resps=[answer]) for doc, answer in asked]
    if name == "ai2d":
        assert [doc for doc, _ in asked] == list(range(len(docs))), "its filter takes questions in order"
    task.apply_filters()
    results, rows = [], []
    for instance in task._instances:
        ((_, answer),) = instance.filtered_resps.items()
        rows.append(docs[instance.doc_id])
        results.append(task.process_results(docs[instance.doc_id], [answer]))
    return Scored(rows, _scores(task, results), results, task)


def _scores(task: Any, results: list[dict[str, Any]]) -> list[float | None]:
    if task.name in MEANS:
        return [float(one[MEANS[task.name]]) for one in results]
    if task.name == "mmbench":
        return list(_rotations(task, [one["gpt_eval_score"] for one in results]))
    if task.name in ("seedbench", "refcoco"):
        return [_alone(task.aggregation()[LEADING[task.name]], one[LEADING[task.name]]) for one in results]
    return [float(next(iter(one.values()))["score"]) for one in results]


def _alone(function: Any, result: Any) -> float | None:
    try:
        return float(function([result]))
    except ZeroDivisionError:
        return None


def _rotations(task: Any, results: list[Any]) -> list[float]:
    """Each rotation as a question of its own, by what `eval_result` calls for each question."""
    evaluator = task.aggregation()["gpt_eval_score"].__globals__["mmbench_evaluator"]
    table = pandas.DataFrame(results).rename(columns={"L2-category": "l2-category", "E": "e"})
    right = dict(zip(table["index"], table["answer"]))
    return [float(evaluator.eval_sub_data(table.iloc[place : place + 1], right, static_only=True)) for place in range(len(table))]
