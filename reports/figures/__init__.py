"""The figures of a report, drawn from the cells of a run."""
