"""Whether a candidate is worse than a baseline: two runs, or two files of pytest-benchmark, rule by rule."""
