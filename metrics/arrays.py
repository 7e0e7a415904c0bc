"""Types of the arrays that the figures are computed from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.number]
Flags: TypeAlias = NDArray[np.bool_]
Numbers: TypeAlias = "Sequence[float] | NDArray[np.generic]"
"""What a caller may give for a column of numbers: a sequence, or an array of floats, whole numbers or flags."""
Clusters: TypeAlias = "Sequence[Hashable] | NDArray[np.generic]"
"""What a caller may give for the image of each sample: a sequence of any hashables, or an array."""
Figure: TypeAlias = Callable[[Floats], Floats]
"""A figure of sums over images: of sums [..., k] the figure [...], nan of nothing."""
