"""What every sentence of a page, a table and the console claims, the test behind it, and how often it may be wrong.

A sentence is of one of three kinds. ``tested``: it claims, and the test and the family over which that is corrected stand here,
with the rate at which it may speak in runs where there is nothing to claim. ``open``: it says that something was not shown, or
was not tested, and claims nothing. ``read off``: it repeats numbers of the run, or says how they were measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metrics.non_inferiority import ONE_SIDED
from reports.cells import SIGNIFICANT

MAX_T = "step-down max-T over images, all competing cells of the run"
HOLM = "Holm, all competing cells of the run"
FAMILY_WISE = SIGNIFICANT
OF_TWO_BUILDS = 0.005
"""The laxest level of a rule of `regress` in ``thresholds.toml``: a CI system asks at every push."""


@dataclass(frozen=True)
class Claim:
    """What one maker of sentences says. A maker may have several entries, one for each thing that it claims."""

    maker: str  # the function; of the harness the module, or the package of `regress`
    says: str
    kind: Literal["tested", "open", "read off"]
    test: str = ""  # of what is tested: the key of summary.json, and how it is tested
    family: str = ""  # over which it is corrected
    level: float | None = None  # the share of runs with nothing to claim in which it may speak


def _tested(maker: str, says: str, test: str, family: str, level: float = FAMILY_WISE) -> Claim:
    return Claim(maker, says, "tested", test, family, level)


_LOSSES = "difference_none as a loss, and beside it "

CLAIMS: tuple[Claim, ...] = (
    _tested("reports.headline._against_none", "the best of a budget is more or less accurate than the unpruned model",
            "difference_none, sign flips of whole images", MAX_T),
    _tested("reports.headline._against_none", "the best of a budget is not inferior to the unpruned model",
            "non_inferior.p_best, one-sided at the margin", "the competing methods of the budget", ONE_SIDED),
    _tested("reports.headline._against_random", "the best's ranking beats random tokens on its schedule, or is beaten",
            "difference_like, sign flips of whole images", MAX_T),
    _tested("reports.headline._against_downsample", "the best is above or below the image shrunk to the same budget",
            "difference_downsample, sign flips of whole images", MAX_T),
    _tested("reports.headline._ties", "the best of a budget is ahead of every other method",
            "difference_winner of all others, sign flips of whole images", MAX_T),
    Claim("reports.headline._ties", "methods are level, or first place is not settled", "open"),
    _tested("reports.headline.image_worth", "the unpruned model is above the blind one, or below",
            "difference_none.p of blind, sign flips of whole images", "one test a task"),
    Claim("reports.headline._no_lower", "which controls of other methods score no lower than the best", "open"),
    Claim("reports.headline._by_loyalty", "how often the most loyal method agrees, and that its lead was not tested", "open"),
    Claim("reports.headline._at", "that no method was measured", "read off"),
    Claim("reports.headline.headlines", "the headlines of all budgets", "read off"),
    Claim("reports.headline.cost", "time to first token and speed-up with their intervals, or compute", "read off"),
    _tested("reports.findings._winner", "a method is the most accurate at a budget",
            "difference_winner of all others, sign flips of whole images", MAX_T),
    _tested("reports.findings._non_inferior", "these cells lose no more than the margin",
            "non_inferior.p_adjusted, one-sided at the margin", HOLM, ONE_SIDED),
    _tested("reports.findings._ranking", "these cells' rankings are worth more, or less, than random tokens on their schedules",
            "difference_like, sign flips of whole images", MAX_T),
    _tested("reports.findings._diversity", "these cells are less diverse than random tokens",
            "collapse.z.effective_rank, signed ranks of the images' mean percentiles", HOLM),
    _tested("reports.findings._collapse", "these cells are less diverse than random tokens and short of evidence",
            "both collapse.z.effective_rank and evidence.recall_over_control; the weaker p counts", HOLM),
    _tested("reports.findings._swap", "accuracy comes back with the evidence in these cells", "evidence.swap_gain", MAX_T),
    _tested("reports.findings._speed", "these cells' prefill gains less, or more, than their FLOPs promise",
            "latency.realised_gain against 1, over timed rounds", HOLM),
    _tested("reports.findings._explained", "which figures go with right answers on other images, and whether complexity parts "
            "attention from diversity", "explained.correlations and explained.complexity, permutations within groups",
            "the figures of a list; the budgets"),
    _tested("reports.findings._for_others", "which of these figures would do so with other methods too",
            "p_methods_adjusted, permutations of the methods' labels", "the figures of a list"),
    Claim("reports.findings._finding", "puts the cells of one finding into a sentence", "read off"),
    Claim("reports.findings.findings", "the findings of all questions", "read off"),
    _tested("reports.losses._why", "gives reasons of a loss where there is one", "difference_none, sign flips of whole images",
            MAX_T),
    Claim("reports.losses._timed", "time to first token and speed-up with their intervals", "read off"),
    _tested("reports.losses._evidence_back", "accuracy comes back with the evidence", _LOSSES + "evidence.swap_gain", MAX_T),
    _tested("reports.losses._evidence_held", "more or less of the evidence is kept than by random tokens on the same schedule",
            _LOSSES + "evidence.recall_over_control", MAX_T),
    _tested("reports.losses._ranked", "the ranking does worse than random tokens on the same schedule",
            _LOSSES + "difference_like", MAX_T),
    _tested("reports.losses._bent", "kept tokens are more alike, or crowd in fewer places, than random ones",
            _LOSSES + "collapse.z.effective_rank and collapse.z.cells, signed ranks, corrected for each figure", HOLM),
    _tested("reports.losses._leaning", "most kept tokens lie in one half of the image",
            _LOSSES + "bias.lower_half against 0.5, signed ranks, and a size of at least 60 %", HOLM),
    _tested("reports.several._said", "a run is more or less accurate than the first in these cells",
            "paired differences on the same questions, sign flips of whole images", "all differences of the page"),
    Claim("reports.several._figure", "how the figure of several runs is drawn", "read off"),
    Claim("reports.page._same_machine", "how far two timings of the same thing lie apart, without a corrected test", "open"),
    Claim("reports.page._older", "that a run was begun by an older version", "read off"),
    Claim("reports.page._needed_images", "how many images the margin would take, from the correlation of the run", "read off"),
    Claim("reports.page._kernels", "in which code greedy selections ran", "read off"),
    Claim("reports.page._rounding", "whether float32 was rounded to TF32", "read off"),
    Claim("reports.page._alerts", "failures and skipped cells", "read off"),
    Claim("reports.timing.alerts", "which speed-ups are wide by their intervals", "read off"),
    Claim("reports.timing.summed_note", "which times to first token are sums of stages", "read off"),
    Claim("reports.timing.wide_note", "what the mark wide means", "read off"),
    Claim("reports.timing.how_timed", "how times were taken, and how many speed-ups are known", "read off"),
    _tested("reports.figures.rows.ranking", "marks are filled where the ranking differs from random tokens",
            "difference_like, sign flips of whole images", MAX_T),
    Claim("reports.figures.rows.accuracy_by_budget", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost.accuracy_by_tokens", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost.accuracy_by_final", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost.accuracy_by_flops", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost.accuracy_by_ttft", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost.accuracy_by_evidence", "how the figure is drawn; an association", "read off"),
    Claim("reports.figures.cost._by_cost", "how the figure is drawn; its front is read off", "read off"),
    Claim("reports.figures.cost._references", "what the blind model reaches", "read off"),
    Claim("reports.figures.cost.stages", "how the figure is drawn", "read off"),
    Claim("reports.figures.cost._stages_told", "what stages are, and how far off their sum is", "read off"),
    Claim("reports.figures.break_even.speed_by_kept", "how the figure is drawn; its intervals are corrected for nothing", "open"),
    Claim("reports.figures.break_even.break_even_by_batch", "how the figure is drawn; bars are corrected for nothing", "open"),
    Claim("reports.figures.layers.layers", "in which layer most of the evidence is found, without a test", "open"),
    Claim("reports.figures.tokens.families", "how the figure is drawn; nothing in it is tested", "open"),
    Claim("reports.figures.tokens.collapse", "how the figure is drawn; its tests stand in a table", "read off"),
    Claim("reports.figures.tokens.percentiles", "how the figure is drawn; its tests stand in a table", "read off"),
    Claim("reports.figures.why.swap", "how the figure is drawn; no share stands where the loss could not be told from none",
          "read off"),
    Claim("reports.figures.why.rows", "how the figure is drawn", "read off"),
    Claim("reports.figures.why._fitting", "which cells are drawn", "read off"),
    Claim("reports.cells.marks_note", "how many mark tokens an image has", "read off"),
    Claim("reports.cells.removes_note", "which cells remove nothing", "read off"),
    Claim("reports.method_notes.same_notes", "which cells keep the same tokens and give the same answers", "read off"),
    Claim("reports.method_notes.counted_on_tiles", "how a budget counts on tiles, and what was kept", "read off"),
    Claim("reports.method_notes.tiles_note", "which cells kept less than was asked for, counting tile by tile", "read off"),
    Claim("reports.method_notes.unverified_note", "which methods no output of the authors' code proves, and why", "read off"),
    Claim("reports.profile_page._drawn", "the figures of a profile, one after the other", "read off"),
    Claim("reports.profile_words.memory_words", "what the figures of peak memory are", "read off"),
    Claim("reports.profile_words.beyond_words", "why a stage reaches more than a roof that was measured", "read off"),
    Claim("reports.profile_words.limit_words", "how long a profile took beside its limit", "read off"),
    Claim("reports.profile_words.kernels_words", "in which code greedy selections ran", "read off"),
    Claim("reports.columns._leading_columns", "what the columns of the table hold", "read off"),
    Claim("reports.scoring.rules", "which rule scored, and how often others part from it", "read off"),
    Claim("reports.scoring.partial", "of how many questions a partial figure is", "read off"),
    Claim("reports.against_published._said", "how many published values lie inside our intervals, corrected for nothing", "open"),
    Claim("reports.against_published._width", "how wide those intervals are, and how many other methods they hold", "open"),
    Claim("reports.against_published._common", "what differs or is unknown in every comparison", "read off"),
    Claim("reports.against_published._fine", "how verdicts are made, and what no interval holds", "read off"),
    Claim("reports.reproduction.sentences", "how many published values lie inside our intervals, corrected for nothing", "open"),
    _tested("reports.regression.headline", "which rules found a regression; each rule of `harness.store.verdicts` has its test",
            "the significant rules: accuracy and diversity, and latency with its level", "all cells that a rule judges",
            OF_TWO_BUILDS),
    Claim("reports.regression.counted", "how many checks failed", "read off"),
    Claim("reports.templates.report.html.j2", "how to read the page", "read off"),
    Claim("reports.templates.against.html.j2", "how to read the table", "read off"),
    Claim("reports.templates.reproduction.html.j2", "how to read the page", "read off"),
    Claim("reports.templates.several.html.j2", "how to read the page", "read off"),
    Claim("reports.templates.regression.html.j2", "how to read the page", "read off"),
    Claim("reports.templates.profile.html.j2", "how to read the page", "read off"),
    Claim("reports.templates.browse.html", "how to read the page", "read off"),
    _tested("harness.results.explain", "which figures predict right answers, and whether complexity parts attention from "
            "diversity", "explained.correlations and explained.complexity, permutations", "the figures of a list; the budgets"),
    _tested("harness.results.rank_agreement", "a run ranks methods as a published table does, or the other way round",
            "Spearman's rho, all orders of the methods", "one table at one budget; a last line says how many there are"),
    Claim("harness.results.several", "why runs are not compared, and what else may differ", "read off"),
    _tested("harness.results.regression", "which cells regressed, and what else may differ between two builds",
            "the rules accuracy, diversity and latency, each at its level; other rules compare what was counted",
            "all cells that a rule judges", OF_TWO_BUILDS),
)  # fmt: skip
"""Every maker of sentences; the tests walk the modules and fail where one is missing here."""


def claims_of(maker: str) -> list[Claim]:
    """Return what a maker of sentences claims."""
    return [claim for claim in CLAIMS if claim.maker == maker]
