"""What a shell offers behind a tab: names of methods, models, tasks and runs, and values of published figures.

The registries are imported inside the functions: they need neither torch nor NumPy, which a tab key could not wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path


def methods(incomplete: str) -> list[str]:
    """Complete the last of several bundled methods, comma-separated: ``sts,fa`` gives ``sts,fastv``."""
    from methods.registry import BUNDLED

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _beginning((*BUNDLED, "all"), last)]


def method(incomplete: str) -> list[str]:
    """Complete the name of one bundled method."""
    from methods.registry import BUNDLED

    return _beginning(BUNDLED, incomplete)


def models(incomplete: str) -> list[str]:
    """Complete an embedded model or one of another package; a folder is the shell's own to complete."""
    from harness.models.catalogue import EMBEDDED, plugged

    return _beginning((*EMBEDDED, *plugged()), incomplete)


def shapes(incomplete: str) -> list[str]:
    """Complete a public model whose configuration figures are known."""
    from harness.models.shapes import PUBLIC

    return _beginning(PUBLIC, incomplete)


def models_and_shapes(incomplete: str) -> list[str]:
    """Complete a model that can be run, or a public one whose figures are known."""
    return models(incomplete) + shapes(incomplete)


def tasks(incomplete: str) -> list[str]:
    """Complete a task that has a name."""
    from harness.tasks.registry import names

    return _beginning(names(), incomplete)


def published(field: str) -> Callable[[str], list[str]]:
    """Return what completes the last of several comma-separated values that published figures have in a field.

    Args:
        field: of `harness.literature.selection.FILTERS`. Models are offered by their last parts, sources by their first words,
            and values with blanks, which a shell would take apart, not at all.
    """

    def complete(incomplete: str) -> list[str]:
        from harness.literature.selection import values_of
        from harness.literature.tables import names
        from harness.literature.tables import published as figures

        before, comma, last = incomplete.rpartition(",")
        values = names() if field == "table" else values_of(field, figures())
        if field == "model" and "/" not in last:
            values = [value.rpartition("/")[2] for value in values]
        elif field == "source":
            before, comma, last, values = "", "", incomplete, [value.split()[0] for value in values]
        return [f"{before}{comma}{value}" for value in _beginning((value for value in values if " " not in value), last)]

    return complete


def tables(incomplete: str) -> list[str]:
    """Complete the name of a table of published figures."""
    from harness.literature.tables import names

    return _beginning(names(), incomplete)


def runs_and_tables(incomplete: str) -> list[str]:
    """Complete a folder that holds a run, or the name of a table of published figures."""
    return [*tables(incomplete), *runs(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Complete a folder that holds a run, in the folder that is being typed; other folders lead further down."""
    typed = Path(incomplete) if incomplete.endswith("/") or not incomplete else Path(incomplete).parent
    try:
        folders = sorted(path for path in typed.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    shown = (str(path) if (path / "manifest.json").is_file() else f"{path}/" for path in folders)
    return _beginning(shown, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
