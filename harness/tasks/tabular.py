"""A task over tables: questions in groups of one image, a seeded sample of the images, each decoded when it is wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.errors import RequestError
from harness.tasks.base import Answered, ImageSample, Question, TaskInfo
from harness.tasks.hub_tables import HubFiles
from harness.tasks.pictures import Picture, identity, picture
from harness.tasks.rows import Row, lacking
from harness.tasks.scoring import Scorer
from harness.tasks.tables import Table
from harness.tasks.target import Target

Aggregate = Callable[[Sequence[Answered]], dict[str, float]]


@dataclass(frozen=True)
class Asked:
    """One question of a row, with its right answers; one without an id (``ident``) is named after its row."""

    family: str
    text: str
    target: Target
    ident: str | None = None


@dataclass(frozen=True)
class ImageTable:
    """Images in a table of their own (GQA), joined on column ``key`` of a question = column ``ident`` of an image."""

    key: str
    ident: str
    config: str


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a data set become questions, and how answers are scored."""

    info: TaskInfo
    columns: tuple[str, ...]  # that must be there, beside the image's
    ask: Callable[[Row], Iterable[Asked]]
    metric: Scorer
    optional: tuple[str, ...] = ()  # columns that are read where they are there
    image: str = "image"
    image_id: Callable[[Row], str | None] | None = None  # where it gives none: the image's path, or its bytes
    images: ImageTable | None = None
    wanted: Callable[[Row], bool] | None = None  # rows for which it is false are left out
    scaled: Callable[[Target, tuple[int, int]], Target] | None = None  # the target, given (width, height)
    total: Aggregate | None = None
    repositories: tuple[str, ...] = ()  # hub ids that hold the same data
    config: str | None = None
    strict: bool = False  # whether an id that stands twice is an error, instead of being told apart by a number

    @property
    def configs(self) -> tuple[str | None, ...]:
        """The configurations of the data set that hold its rows, and where they stand apart, its images."""
        return (self.config,) if self.images is None else (self.config, self.images.config)


@dataclass
class _Index:
    """All rows that are asked, images left out."""

    places: list[tuple[Table, int]] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)  # ids of the row's questions
    owners: list[str | None] = field(default_factory=list)  # the id of its image; None where only the bytes tell
    families: dict[str, None] = field(default_factory=dict)
    seen: dict[str, tuple[int, str]] = field(default_factory=dict)  # an id -> how often, and where first
    paths: dict[str, tuple[str, str]] = field(default_factory=dict)  # an image's id -> its path, and where


class TabularTask:
    """A benchmark on the tables that hold its rows.

    Args:
        benchmark: how its rows become questions and how answers are scored.
        tables: the tables that hold its rows, one after the other.
        images: where the images stand apart, the tables that hold them.
        check: whether to read all rows at once, images left out, so that a fault shows before a model is loaded.
        origin: the data set of the hub that the tables are from; None of local files.

    Raises:
        RequestError: for a column that is missing, or a row that cannot be read: with the file and the line or row.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        tables: Sequence[Table],
        images: Sequence[Table] = (),
        check: bool = True,
        origin: HubFiles | None = None,
    ) -> None:
        self.benchmark, self.info, self.origin = benchmark, benchmark.info, origin
        self._tables, self._image_tables = list(tables), list(images)
        self._apart = benchmark.images if images else None
        for table in self._tables:
            _require(table, (*benchmark.columns, self._apart.key if self._apart else benchmark.image))
        for table in self._image_tables:
            _require(table, (benchmark.image, *([self._apart.ident] if self._apart else [])))
        if check:
            found = tuple(self._index.families)
            self.info = replace(self.info, families=self.info.families or found)

    @property
    def digest(self) -> str:
        """A fingerprint of the data, as hexadecimal digits; of image files beside a table it covers the names alone."""
        parts = "|".join(table.digest for table in (*self._tables, *self._image_tables))
        return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()

    def _columns(self, table: Table) -> tuple[str, ...]:
        """The columns that are read with a row: not the image's, unless it holds paths."""
        own, wanted = self.benchmark, [*self.benchmark.columns, *self.benchmark.optional]
        if self._apart is not None:
            wanted.append(self._apart.key)
        elif table.holds_text(own.image):
            wanted.append(own.image)
        return tuple(dict.fromkeys(wanted))

    @cached_property
    def _index(self) -> _Index:
        index, own = _Index(), self.benchmark
        for table in self._tables:
            for place, row in enumerate(table.rows(self._columns(table))):
                if own.wanted is not None and not own.wanted(row):
                    continue
                asked = list(own.ask(row))
                index.names.append(tuple(self._name(index, row, one, k) for k, one in enumerate(asked)))
                index.owners.append(self._owner(index, table, row))
                index.places.append((table, place))
                index.families |= dict.fromkeys(one.family for one in asked)
        if not index.places:
            raise RequestError(f"task {self.info.name!r}: {self._tables[0].name} holds no row that can be asked")
        return index

    def _name(self, index: _Index, row: Row, asked: Asked, place: int) -> str:
        strict = self.benchmark.strict
        by_row = row.label if strict else f"{self.info.split}-{len(index.names)}" + (f"-{place}" if place else "")
        name = asked.ident or by_row
        count, where = index.seen.get(name, (0, row.place))
        if count and strict:
            raise row.error("id", f"{name!r} stands at {where} already; ids must differ")
        index.seen[name] = count + 1, where
        return f"{name}#{count + 1}" if count else name

    def _owner(self, index: _Index, table: Table, row: Row) -> str | None:
        """The id of the row's image, where the row tells it; an image file must be there, one for an id."""
        own, path = self.benchmark, None
        if self._apart is None and isinstance(row.values.get(own.image), str):
            found = picture(row.values[own.image], row, own.image, table.root).checked()
            path = found.ident
        name = own.image_id(row) if own.image_id is not None else None
        if name is None or path is None:
            return name or path
        known, where = index.paths.setdefault(name, (path, row.place))
        if known != path:
            raise row.error(own.image, f"{path!r} is not the image {known!r} that {name!r} is at {where}")
        return name

    @cached_property
    def _groups(self) -> dict[str, list[int]]:
        """Rows by image, in the order of the tables."""
        groups: dict[str, list[int]] = {}
        for number, owner in enumerate(self._owners()):
            groups.setdefault(owner, []).append(number)
        return groups

    def _owners(self) -> Iterator[str]:
        """The id of each row's image; of one that nothing names, the digest of its bytes."""
        index, number = self._index, 0
        if None not in index.owners:
            yield from (owner for owner in index.owners if owner is not None)
            return
        for table in self._tables:
            for place, cell in enumerate(table.cells(self.benchmark.image)):
                if number < len(index.places) and index.places[number] == (table, place):
                    yield index.owners[number] or identity(cell) or self._picture(number).ident
                    number += 1

    def _picture(self, number: int) -> Picture:
        table, place = self._index.places[number]
        row, column = table.row(place, self._columns(table)), self.benchmark.image
        if self._apart is not None:
            key = row.short(self._apart.key)
            if key not in self._image_places:
                raise row.error(self._apart.key, f"there is no image {key!r} in {self._image_tables[0].name}")
            table, place = self._image_places[key]
            row = table.row(place, (self._apart.ident,))
        return picture(table.cell(place, column), row, column, table.root)

    @cached_property
    def _image_places(self) -> dict[str, tuple[Table, int]]:
        ident = self._apart.ident if self._apart is not None else ""
        return {
            row.short(ident): (table, place) for table in self._image_tables for place, row in enumerate(table.rows((ident,)))
        }

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]:
        """Yield a sample of the images without replacement, each with all of its questions.

        The order is that of BLAKE2 of (seed, image id): a larger sample begins with the smaller one, whatever the order
        of the file. An image that cannot be decoded raises where it is wanted, and not before.
        """
        order = sorted(self._groups, key=lambda image: hashlib.blake2b(f"{seed}|{image}".encode(), digest_size=16).digest())
        for image_id in order[: max(count, 0)]:
            numbers = self._groups[image_id]
            load = self._picture(numbers[0])
            size = None if self.benchmark.scaled is None else _size(load)
            questions = (question for number in numbers for question in self._questions(number, size))
            yield ImageSample(image_id, load, tuple(questions))

    def _questions(self, number: int, size: tuple[int, int] | None) -> Iterator[Question]:
        own, (table, place) = self.benchmark, self._index.places[number]
        row = table.row(place, self._columns(table))
        for name, asked in zip(self._index.names[number], own.ask(row), strict=True):
            target = asked.target if own.scaled is None or size is None else own.scaled(asked.target, size)
            yield Question(name, asked.family, asked.text, target.text if target.answers else "")

    def score(self, prediction: str, answer: str) -> float:
        """Return a score in [0, 1]; nan where the task has no answers."""
        return self.benchmark.metric(prediction, Target.read(answer)) if self.info.scored else float("nan")

    def aggregate(self, rows: Sequence[Answered]) -> dict[str, float]:
        """Return the benchmark's own figures, which are no means of scores; most benchmarks have none."""
        return self.benchmark.total(rows) if self.benchmark.total is not None and rows else {}


def _size(picture: Picture) -> tuple[int, int] | None:
    """Width and height; None of an image that cannot be decoded, on which nothing will be measured."""
    try:
        return picture().size
    except RequestError:
        return None


def _require(table: Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise RequestError(f"{table.name}: {lacking(column, table.columns)}")
