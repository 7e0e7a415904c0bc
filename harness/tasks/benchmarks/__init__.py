"""Public benchmarks: prompts and scoring as in lmms-eval 0.7; what differs is said in each module."""
