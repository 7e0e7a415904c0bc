"""Types of what is read from a run folder: parsed JSON, and columns of samples. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

JsonObject = dict[str, Any]
"""A parsed object of JSON: the facts of a cell, an entry of ``summary.json``, a manifest."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Columns = Mapping[str, NDArray[Any]]
"""What `RunFolder.columns` or `RunFolder.analysis` reads of a cell: [n] each, numbers as float64, texts and bytes as objects.

``layers`` of an analysis is float32 [n, layers, LAYERS].
"""
