"""Public benchmarks: prompts, lengths of answers and scoring as in lmms-eval 0.7; what differs is said in docs/tasks.md."""

OPEN_LENGTH = 1024
"""Tokens of an answer where lmms-eval's task leaves them to the model: what its class for LLaVA takes then."""
