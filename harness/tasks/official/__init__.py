"""The official rule of each public benchmark: what the pipeline of lmms-eval 0.7.3 does with an answer.

There, `ConfigurableTask.process_results` takes white space off both ends of the answer, and the task's own function scores it.
The rules stand here without lmms-eval, and are held against its own functions on thousands of made-up answers
(``pytest -m differential``). Where they need more of a row than the right answers and the options, it is `Target.official`.
"""

from __future__ import annotations

from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.official.boxes import refcoco
from harness.tasks.official.choices import ai2d, scienceqa, seedbench
from harness.tasks.official.mmbench_static import mmbench
from harness.tasks.official.short_answers import chartqa, docvqa, gqa, ocrbench, textvqa, vqav2
from harness.tasks.official.yes_no import mme, pope
from harness.tasks.rule_names import OFFICIAL
from harness.tasks.rules import ScoringRule

VERSION = "lmms-eval 0.7.3"
"""The release that the rules follow."""
_EXACT = "lmms_eval.api.metrics.exact_match_fn with ignore_case and ignore_punctuation"
_VQA = OwnFigure("mean", "VQA accuracy")

OFFICIAL_RULES: dict[str, ScoringRule] = {
    "pope": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.pope.utils.pope_process_results, {VERSION}", pope,
        OwnFigure("f1", "F1", 100.0, (("unread_missed", False),)),
    ),
    "mme": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.mme.utils.mme_process_results, {VERSION}", mme, OwnFigure("mme", "MME total", 2800.0)
    ),
    "mmbench": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.mmbench.en_utils.mmbench_aggregate_dev_results_static (mmbench_en_dev_static), {VERSION}",
        mmbench, OwnFigure("circular", "circular accuracy"),
    ),
    "scienceqa": ScoringRule(OFFICIAL, f"lmms_eval.tasks.scienceqa.utils.sqa_process_results, {VERSION}", scienceqa, ACCURACY),
    "seedbench": ScoringRule(OFFICIAL, f"lmms_eval.tasks.seedbench.utils.seed_process_result, {VERSION}", seedbench, ACCURACY),
    "ai2d": ScoringRule(
        OFFICIAL, f"{_EXACT} behind lmms_eval.tasks.ai2d.utils.MultiChoiceRegexFilter, {VERSION}", ai2d, ACCURACY
    ),
    "gqa": ScoringRule(OFFICIAL, f"{_EXACT}, {VERSION}", gqa, ACCURACY),
    "vqav2": ScoringRule(OFFICIAL, f"lmms_eval.tasks.vqav2.utils.vqav2_process_results_val, {VERSION}", vqav2, _VQA),
    "textvqa": ScoringRule(OFFICIAL, f"lmms_eval.tasks.textvqa.utils.textvqa_process_results, {VERSION}", textvqa, _VQA),
    "chartqa": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.chartqa.utils.chartqa_process_results, {VERSION}", chartqa,
        OwnFigure("mean", "relaxed accuracy"),
    ),
    "docvqa": ScoringRule(OFFICIAL, f"lmms_eval.api.metrics.anls, {VERSION}", docvqa, OwnFigure("mean", "ANLS")),
    "ocrbench": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.ocrbench.utils.ocrbench_process_results, {VERSION}", ocrbench,
        OwnFigure("mean", "OCRBench total", 1000.0),
    ),
    "refcoco": ScoringRule(
        OFFICIAL, f"lmms_eval.tasks.refcoco.utils_rec.refcoco_bbox_rec_acc05 (refcoco_bbox_rec), {VERSION}", refcoco,
        OwnFigure("mean", "accuracy at IoU 0.5"), "divides by zero",
    ),
}  # fmt: skip
"""The official rule of a benchmark, by the name of its task."""
