"""A heat map of shares around 100 %: red is loss, white is nothing lost, blue is gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.style import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# seaborn's vlag, reversed: 256 colours of six hexadecimal digits. Importing seaborn for them would take a second.
_COLOURS = (
    "a9373ba9393caa3a3eab3c3fac3e40ac3f42ad4143ae4244af4446af4647b04748b1494ab24a4bb24c4cb34d4eb44f4fb55151b55252b65453b75555"
    "b75756b85857b95a59b95b5aba5d5cbb5e5dbc605ebc6160bd6361be6463be6664bf6765c06967c06a68c16c6ac16d6bc26f6dc3706ec3726fc47371"
    "c57572c57674c67875c77977c77b78c87c7ac87e7bc97f7dca817eca827fcb8481cc8582cc8784cd8885cd8987ce8b88cf8c8acf8e8bd08f8dd1918e"
    "d19290d29491d29593d39794d49896d49a97d59c99d59d9ad69f9cd7a09dd7a29fd8a3a0d9a5a2d9a6a4daa8a5daa9a7dbaba8dcacaadcaeabddafad"
    "deb1aedeb2b0dfb4b2dfb5b3e0b7b5e1b9b6e1bab8e2bcb9e3bdbbe3bfbde4c0bee5c2c0e5c3c1e6c5c3e7c7c5e7c8c6e8cac8e9cbc9eacdcbeacfcd"
    "ebd0ceecd2d0ecd3d2edd5d3eed7d5efd8d6efdad8f0dbdaf1dddbf2dfddf2e0dff3e2e0f4e3e2f5e5e4f5e7e5f6e8e7f7eae8f7ebeaf8edebf9eeed"
    "f9efeefaf0effaf2f1faf3f2faf3f3faf4f3faf5f4faf5f4faf5f5faf5f5f9f5f5f9f5f5f8f4f5f7f4f4f6f3f4f5f2f4f3f1f3f2f0f2f1eff2efeef1"
    "eeedf0ecebefebeaeee9e9ede7e7ece6e6ece4e5ebe2e3eae1e2e9dfe1e8dde0e7dcdee6dadde5d9dce5d7dae4d5d9e3d4d8e2d2d7e1d0d5e0cfd4e0"
    "cdd3dfcbd1decad0ddc8cfddc7cedcc5cddbc3cbdac2cadac0c9d9bfc8d8bdc6d7bbc5d7bac4d6b8c3d5b7c2d5b5c0d4b3bfd3b2bed3b0bdd2afbcd1"
    "adbbd1abb9d0aab8d0a8b7cfa7b6cea5b5cea3b4cda2b2cda0b1cc9fb0cc9dafcb9baecb9aadca98acc997abc995a9c893a8c892a7c890a6c78fa5c7"
    "8da4c68ba3c68aa2c588a1c587a0c4859ec4839dc4829cc3809bc37e9ac27d99c27b98c27997c17896c17695c17594c07393c07192c06f91bf6e90bf"
    "6c8ebf6a8dbf698cbe678bbe658abe6489be6288bd6087bd5e86bd5c85bd5b84bd5983bd5782bc5581bc5380bc517fbc507ebc4e7dbc4c7cbc4a7bbc"
    "4879bc4678bc4477bc4276bc3f75bc3d74bc3b73bc3972bc3671bc3470bc316fbc2f6ebc2c6dbc296cbc266abd2369bd"
)
_NAMED = 72  # columns of the widest figure whose names do not overlap


def heat_map(axes: Axes, table: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], low: float) -> None:
    """Draw percentages as coloured fields with their numbers inside, the first row on top and the names above.

    Args:
        axes: to draw into; their size must allow for the names.
        table: percentages [rows, columns]; nan is drawn as an empty field.
        rows: names of the rows.
        columns: names of the columns.
        low: the percentage that gets the darkest red; as far above 100 is the darkest blue.
    """
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([f"#{_COLOURS[i : i + 6]}" for i in range(0, len(_COLOURS), 6)])
    shown = np.ma.masked_invalid(table)
    mesh = axes.pcolormesh(shown, cmap=colours, vmin=low, vmax=200 - low, linewidths=1.2, edgecolor="white")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    fields = mesh.to_rgba(shown)  # [rows, columns, 4]
    for (row, column), share in np.ndenumerate(table):
        if not np.isnan(share):
            ink = _legible(fields[row, column, :3])
            axes.text(column + 0.5, row + 0.5, f"{share:.0f}", color=ink, ha="center", va="center", fontsize=8.5)
    axes.set_facecolor("#e3e6ea")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    every = 1 + len(columns) // _NAMED
    axes.set_xticks(np.arange(0, len(columns), every) + 0.5, columns[::every], rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, rotation=0, va="center")


def _legible(colour: NDArray[np.float64]) -> str:
    """Dark or light for a number on a colour, whichever stands out more (WCAG relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return INK if np.dot((0.2126, 0.7152, 0.0722), linear) > 0.23 else "white"
