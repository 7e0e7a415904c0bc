"""A task over tables: questions in groups of one image, a seeded sample of the images, each decoded when it is wanted."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness.errors import RequestError
from harness.tasks.base import Answered, ImageSample, Question, TaskInfo
from harness.tasks.columns import image_columns
from harness.tasks.hub_tables import HubFiles
from harness.tasks.marks import placed
from harness.tasks.pictures import Picture
from harness.tasks.row_images import ImageTable, RowImages, joined
from harness.tasks.rows import Row, lacking
from harness.tasks.rules import Judged, Judgement, ScoringRule, leading_rule
from harness.tasks.tables import Table
from harness.tasks.target import Target

Aggregate = Callable[[Sequence[Answered], ScoringRule], dict[str, float]]
"""Figures of answers that a rule scored, beside the one that leads."""


@dataclass(frozen=True)
class Asked:
    """One question of a row, with its right answers; one without an id (``ident``) is named after its row."""

    family: str
    text: str
    target: Target
    ident: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """How the rows of a data set become questions, and how answers are scored."""

    info: TaskInfo
    columns: tuple[str, ...]  # that must be there, beside the image's
    ask: Callable[[Row], Iterable[Asked]]
    rules: tuple[ScoringRule, ...]  # ours, and on public benchmarks the official one and that of the authors
    optional: tuple[str, ...] = ()  # columns that are read where they are there
    image: str | None = "image"  # None where rows may have several images, or none, as users' files have them
    image_id: Callable[[Row], str | None] | None = None  # where it gives none: the image's path, or its bytes
    images: ImageTable | None = None
    wanted: Callable[[Row], bool] | None = None  # rows for which it is false are left out
    scaled: Callable[[Target, tuple[int, int]], Target] | None = None  # the target, given (width, height)
    total: Aggregate | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)  # how many questions a split has, where that is published
    repositories: tuple[str, ...] = ()  # hub ids that hold the same data
    config: str | None = None
    parameters: Mapping[str, Callable[[Benchmark, str], Benchmark]] = field(default_factory=dict)  # of its own: name=value
    strict: bool = False  # whether an id that stands twice is an error, instead of being told apart by a number

    @property
    def configs(self) -> tuple[str | None, ...]:
        """The configurations of the data set that hold its rows, and where they stand apart, its images."""
        return (self.config,) if self.images is None else (self.config, self.images.config)


NO_IMAGE = "no image: "
"""What the id begins with of a question that has no image."""


@dataclass
class _Index:
    """All rows that are asked, images left out."""

    places: list[tuple[Table, int]] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)  # ids of the row's questions
    owners: list[str | None] = field(default_factory=list)  # the id of its images; None where only their bytes tell
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
        self.leading = leading_rule(benchmark.rules, None, benchmark.info.name)
        self._tables, self._image_tables = list(tables), list(images)
        apart = benchmark.images if images else None
        self._images = RowImages(benchmark.image, apart, images)
        for table in self._tables:
            _require(table, (*benchmark.columns, *([apart.key] if apart else [benchmark.image or _image_column(table)])))
        for table in self._image_tables:
            _require(table, (benchmark.image or "image", *([apart.ident] if apart else [])))
        if check:
            found = tuple(self._index.families)
            self.info = replace(self.info, families=self.info.families or found)

    @property
    def digest(self) -> str:
        """A fingerprint of the data, as hexadecimal digits; of image files beside a table it covers the names alone."""
        parts = "|".join(table.digest for table in (*self._tables, *self._image_tables))
        return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()

    def _columns(self, table: Table) -> tuple[str, ...]:
        """The columns that are read with a row: not the images', unless they hold texts."""
        own, texts = self.benchmark, self._images.texts(table)
        heavy = set(self._images.columns(table)) - set(texts) if self._images.apart is None else set()
        return tuple(dict.fromkeys(column for column in (*own.columns, *own.optional, *texts) if column not in heavy))

    @cached_property
    def _index(self) -> _Index:
        index, own = _Index(), self.benchmark
        imaged = False
        for table in self._tables:
            imaged |= not self._images.at_hand(table)
            for place, row in enumerate(table.rows(self._columns(table))):
                if own.wanted is not None and not own.wanted(row):
                    continue
                asked = list(own.ask(row))
                index.names.append(tuple(self._name(index, row, one, k) for k, one in enumerate(asked)))
                owner = self._owner(index, table, row, asked)
                imaged |= owner is not None and not owner.startswith(NO_IMAGE)
                index.owners.append(owner)
                index.places.append((table, place))
                index.families |= dict.fromkeys(one.family for one in asked)
        if not index.places:
            raise RequestError(f"task {self.info.name!r}: {self._tables[0].name} holds no row that can be asked")
        if not imaged:
            table, place = index.places[0]
            column = self._images.columns(table)[0]
            raise table.row(place, self._columns(table)).error(column, "is empty, and no other row has an image")
        return index

    def _name(self, index: _Index, row: Row, asked: Asked, place: int) -> str:
        strict = self.benchmark.strict
        suffix = f"-{place}" if place else ""
        by_row = f"{row.label}{suffix}" if strict else f"{self.info.split}-{len(index.names)}{suffix}"
        name = asked.ident or by_row
        count, where = index.seen.get(name, (0, row.place))
        if count and strict and row.has("id"):
            raise row.error("id", f"{name!r} stands at {where} already; ids must differ")
        index.seen[name] = count + 1, where
        return f"{name}#{count + 1}" if count else name

    def _owner(self, index: _Index, table: Table, row: Row, asked: Sequence[Asked]) -> str | None:
        """The id of the row's images, where the row tells it; an image file must be there, one for an id."""
        own, path, at_hand = self.benchmark, None, self._images.at_hand(table)
        if at_hand:
            pictures = self._in_order(row, [one.checked() for one in self._images.of_row(row, table)], asked)
            path = joined([one.ident for one in pictures])
            if path is None:
                return f"{NO_IMAGE}{row.label}"
        name = own.image_id(row) if own.image_id is not None else None
        if name is None or path is None:
            return name or path
        known, where = index.paths.setdefault(name, (path, row.place))
        if known != path:
            column = self._images.columns(table)[0]
            raise row.error(column, f"{path!r} is not the image {known!r} that {name!r} is at {where}")
        return name

    def _in_order(self, row: Row, pictures: list[Picture], asked: Sequence[Asked]) -> list[Picture]:
        """A row's images in the order in which they stand in the prompt, which numbered marks say."""
        if self.benchmark.image is not None:
            return pictures
        for one in asked:
            order = self._placed(row, one, len(pictures))[1]
            if order != list(range(len(pictures))):
                return [pictures[place] for place in order]
        return pictures

    def _placed(self, row: Row, asked: Asked, images: int) -> tuple[str, list[int]]:
        try:
            return placed(asked.text, images)
        except ValueError as error:
            raise row.error("question" if row.has("question") else "conversations", str(error)) from None

    @cached_property
    def _groups(self) -> dict[str, list[int]]:
        """Rows by their images, in the order of the tables."""
        groups: dict[str, list[int]] = {}
        for number, owner in enumerate(self._owners()):
            groups.setdefault(owner, []).append(number)
        return groups

    def _owners(self) -> Iterator[str]:
        """The id of each row's images; of those that nothing names, the digest of their bytes."""
        index, number = self._index, 0
        if None not in index.owners:
            yield from (owner for owner in index.owners if owner is not None)
            return
        for table in self._tables:
            for place, name in enumerate(self._images.idents(table)):
                if number < len(index.places) and index.places[number] == (table, place):
                    yield index.owners[number] or name or f"{NO_IMAGE}{self._row(number).label}"
                    number += 1

    def _row(self, number: int) -> Row:
        table, place = self._index.places[number]
        return table.row(place, self._columns(table))

    def _pictures(self, number: int) -> list[Picture]:
        """The images of a row, in the order in which they stand in the prompt."""
        table, place = self._index.places[number]
        found = self._images.at(table, place, self._columns(table))
        row = self._row(number)
        return self._in_order(row, found, list(self.benchmark.ask(row)) if len(found) > 1 else [])

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]:
        """Yield a sample of the images without replacement, each with all of its questions.

        The order is that of BLAKE2 of (seed, image id): a larger sample begins with the smaller one, whatever the order
        of the file. An image that cannot be decoded raises where it is wanted, and not before.

        Raises:
            RequestError: where rows of one image id in users' files have different images, or a question's marks are not
                as many as its images.
        """
        order = sorted(self._groups, key=lambda image: hashlib.blake2b(f"{seed}|{image}".encode(), digest_size=16).digest())
        for image_id in order[: max(count, 0)]:
            numbers = self._groups[image_id]
            pictures = self._one_group(image_id, numbers)
            size = None if self.benchmark.scaled is None else _size(pictures[0])
            questions = [question for number in numbers for question in self._questions(number, size, len(pictures))]
            yield ImageSample(image_id, tuple(pictures) if len(pictures) != 1 else pictures[0], tuple(questions))

    def _one_group(self, image_id: str, numbers: list[int]) -> list[Picture]:
        """The images of rows of one id, which in users' files must be the same in all of them."""
        pictures = self._pictures(numbers[0])
        if not self.benchmark.strict or self.benchmark.image_id is None:
            return pictures
        known = joined([one.ident for one in pictures])
        for number in numbers[1:]:
            if joined([one.ident for one in self._pictures(number)]) != known:
                here, there = self._row(number), self._row(numbers[0])
                raise here.error(
                    "image_id",
                    f"{image_id!r} has another image here than at {there.place}; give every image an id of its own, or leave the "
                    "column out",
                )
        return pictures

    def _questions(self, number: int, size: tuple[int, int] | None, images: int) -> Iterator[Question]:
        own, row = self.benchmark, self._row(number)
        for name, asked in zip(self._index.names[number], own.ask(row), strict=True):
            target = asked.target if own.scaled is None or size is None else own.scaled(asked.target, size)
            text = asked.text if own.image is not None else self._placed(row, asked, images)[0]
            yield Question(name, asked.family, text, target.text if target.answers else "")

    @property
    def rules(self) -> tuple[ScoringRule, ...]:
        """The rules by which answers can be scored."""
        return self.benchmark.rules

    def scored_by(self, name: str | None) -> TabularTask:
        """Return the same task with another rule that leads; None is the default.

        Raises:
            RequestError: where it has no such rule.
        """
        other = copy.copy(self)
        other.leading = leading_rule(self.rules, name, self.info.name)
        return other

    @property
    def whole(self) -> dict[str, int | None]:
        """How many images and questions the split has; None where local files of a benchmark need not be all of it."""
        found = sum(map(len, self._index.names))
        if self.origin is not None or self.benchmark.strict:  # all that the hub has, and all that a user has
            return {"images": len(self._groups), "questions": found}
        published = self.benchmark.sizes.get(self.info.split)
        if published is None:
            return {"images": None, "questions": None}
        return {"images": len(self._groups) if found >= published else None, "questions": max(found, published)}

    def score(self, prediction: str, answer: str) -> float:
        """Return the score in [0, 1] by the rule that leads; nan where the task has no answers."""
        return self.leading.judge(prediction, Target.read(answer)).score if self.info.scored else float("nan")

    def judge(self, prediction: str, answer: str) -> Judged:
        """Return what every rule says of an answer; nan where the task has no answers."""
        if not self.info.scored:
            return Judged(Judgement(float("nan")), {})
        target = Target.read(answer)
        found = {rule.name: rule.judge(prediction, target) for rule in self.rules}
        return Judged(found[self.leading.name], {name: judgement.score for name, judgement in found.items()})

    def aggregate(self, rows: Sequence[Answered]) -> dict[str, float]:
        """Return the benchmark's own figures, which are no means of scores; most benchmarks have none."""
        return self.benchmark.total(rows, self.leading) if self.benchmark.total is not None and rows else {}


def _size(picture: Picture) -> tuple[int, int] | None:
    """Width and height; None of an image that cannot be decoded, on which nothing will be measured."""
    try:
        return picture().size
    except RequestError:
        return None


def _image_column(table: Table) -> str:
    """A column with images that a table has; the usual name where it has none."""
    return next(iter(image_columns(table.columns)), "image")


def _require(table: Table, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise RequestError(f"{table.name}: {lacking(column, table.columns)}")
