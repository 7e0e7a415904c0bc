"""From a run folder to figures: summaries, comparisons, samples and pages."""
