"""What a reader must know of each method beside its figures: what proves its rule, how it counts, what it is the same as."""

from __future__ import annotations

from reports import wording
from reports.cells import Cell, keep, method, number, role

UNVERIFIED = "unverified"
"""The mark of a method whose rule nothing but a slow version of ours proves; it stands beside its name."""
_COUNTED = {
    "all": "a budget counts the tokens of all tiles together",
    "each": "a budget is divided by the number of tiles and counts on each tile on its own, as its authors count; no output of "
    "theirs is there to hold this division against",
}
_SHORT = 0.05  # tokens; less is not seen in a figure of one decimal


def races(cell: Cell) -> bool:
    """Return whether a cell is a method that is ranked: no reference, and not the same as one that stands before it."""
    return role(cell) == "method" and not same_as(cell)


def same_as(cell: Cell) -> str:
    """Return the method that a cell is the same as, which counts in its place; nothing where it is like no other."""
    return str(cell.get("same_as") or "")


def doubles(cell: Cell, cells: list[Cell]) -> tuple[str, ...]:
    """Return the methods that are the same as a cell.

    Args:
        cell: one that counts.
        cells: those that may be compared with it, at any budget.
    """
    return tuple(method(c) for c in cells if same_as(c) == method(cell) and keep(c) == keep(cell))


def same_notes(cells: list[Cell]) -> list[str]:
    """Say which cells are the same as another and count once, a sentence for each pair of methods."""
    budgets: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if first := same_as(cell):
            found = keep(cell)
            budgets.setdefault((method(cell), first), []).append("any budget" if found is None else found.shown)
    return [
        f"{name} at {wording.listed(list(dict.fromkeys(at)))} is the same as {first}: it keeps the same tokens of every image "
        f"and gives the same answers. The two count once, as {first}, in every ranking and test but those of measured times."
        for (name, first), at in budgets.items()
    ]


def unverified(cell: Cell) -> str:
    """Return why nothing but a slow version of ours proves a method's rule; nothing where its authors' outputs do."""
    return str(cell.get("unverified") or "")


def unverified_methods(cells: list[Cell]) -> list[tuple[str, str]]:
    """Return the methods of a run that nothing else proves, each once with the reason."""
    return list(dict.fromkeys((method(c), why) for c in cells if (why := unverified(c))))


def unverified_note(cells: list[Cell]) -> str:
    """Say which methods are unverified, and why; nothing where none is."""
    told = [f"{name} ({why})" for name, why in unverified_methods(cells)]
    return f"Unverified, with no output of the authors’ code to hold them against: {wording.listed(told)}." if told else ""


def counted_on_tiles(cells: list[Cell]) -> list[tuple[str, str]]:
    """Return how a budget counts for each method where images are in several tiles; nothing where they are not.

    Beside it stands what was kept at each budget by those that count on each tile on its own: it may be less than was asked for.
    """
    tiled = [c for c in cells if c.get("tiles") in _COUNTED and role(c) == "method"]
    found = []
    for name, counted in dict.fromkeys((method(c), str(c["tiles"])) for c in tiled):
        own = [(keep(c), kept_on(c)) for c in tiled if method(c) == name and counted == "each"]
        kept = list(dict.fromkeys(f"{n:.1f} at {asked.shown}" for asked, n in own if asked is not None and n is not None))
        found.append((name, _COUNTED[counted] + (f". Tokens kept: {wording.listed(kept)}" if kept else "")))
    return found


def kept_on(cell: Cell) -> float | None:
    """Return the tokens that a cell kept, counted as its budget is; None where that is no count of tokens, or not known."""
    budget = str(cell.get("budget") or "average")
    return None if budget == "flops" else number(cell, f"tokens.{budget}")


def tiles_note(cells: list[Cell]) -> str:
    """Say which cells kept less than was asked for since they count on each tile on its own; nothing where none did."""
    short = []
    for cell in cells:
        asked, kept = keep(cell), kept_on(cell)
        if cell.get("tiles") != "each" or role(cell) != "method" or asked is None or asked.share or kept is None:
            continue
        if asked.value - kept > _SHORT:
            short.append(f"{method(cell)} keeps {kept:.1f} tokens of {asked.shown} asked")
    if not short:
        return ""
    return f"Budgets are not equal on images in tiles, where a method counts on each tile on its own: {wording.listed(short)}."
