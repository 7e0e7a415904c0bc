"""Names of the figures of kept sets, and which way is more diverse. Needs no torch, so that stored runs can be read without."""

from __future__ import annotations

FIGURES: dict[str, bool] = {
    "effective_rank": True, "stable_rank": True, "participation_ratio": True, "rank99": True, "mean_cosine": False,
    "nearest_cosine": False, "log_det": True, "vendi": True,
    "k_centre_radius": False, "mean_distance_to_kept": False, "residual": False,
    "cells": True, "clark_evans": True, "hull_area": True, "discrepancy": False, "largest_empty_circle": False,
    "clusters_visited": True, "largest_cluster": False,
}  # fmt: skip
"""Every figure of a kept set that has a chance null, and whether a higher one is more diverse (or better spread)."""

DIVERSITY = tuple(FIGURES)[:11]
COVERAGE = tuple(FIGURES)[11:16]
CLUSTERS = tuple(FIGURES)[16:]

SKEWED = ("k_centre_radius", "mean_distance_to_kept", "residual")
"""Figures whose values of random subsets are so skewed that z says little: they are shown by their percentile alone."""

TIED = ("rank99", *COVERAGE, *CLUSTERS)
"""Figures that take few values, so that random subsets often equal a kept set: how ties are ranked matters."""

SCORES = ("score_entropy", "score_gini", "score_support", "score_top_mass", "score_cluster_mass")
"""Collapse of the scores by which an attention ranker chose, at its first step; see `collapse.score_collapse`."""

BIAS = ("row_position", "lower_half", "row_distance", "column_distance")
"""Pull of a kept set towards rows or columns; see `coverage.row_bias`."""

MATCHED = ("effective_rank", "mean_cosine")
"""Figures that are also held against random subsets with the same number of tokens in every row of the image."""

LAYERS = ("recall", "mass", "entropy", "evidence_mass", "evidence_chance", "evidence_top")
"""What is noted of every LLM layer; see `attention.attention_figures`. ``recall``: share of the evidence still present."""
