"""Executors run the shards of a run: in this process, in several beside it, or on a Ray cluster."""
