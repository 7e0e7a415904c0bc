"""The embedded model: what it is made of, how it was trained, its weights and its card."""
