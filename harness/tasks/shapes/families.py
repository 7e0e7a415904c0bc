"""Families of questions of the bundled task; apart, so that `list tasks` loads neither NumPy nor Pillow."""

FAMILIES = ("existence", "colour", "shape", "count", "relation", "quadrant", "digit", "number", "dot")
