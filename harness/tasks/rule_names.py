"""The names of the rules that score answers, for what reads requests and runs without scoring anything."""

from __future__ import annotations

OURS, OFFICIAL, AUTHORS = "ours", "official", "authors"
RULES = (OURS, OFFICIAL, AUTHORS)
"""As ``--scoring`` takes them, and as the columns of a run's samples are called."""
