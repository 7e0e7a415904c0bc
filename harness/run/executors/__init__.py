"""Who runs the shards of a run: this process, several beside it, or a Ray cluster."""
