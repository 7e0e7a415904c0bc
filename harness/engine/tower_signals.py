"""What the vision tower shows of itself to selectors, from the block that each asks for; nothing is computed unasked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from harness.models.adapter import Adapter
from harness.models.prompt import ImageSpan
from harness.models.tile_places import tile_order
from harness.models.tiling import ImageTiler
from harness.models.tower_probes import TowerProbe
from harness.models.towers import WholeTowerOutput
from methods.tower import block_at, block_of, middle_block
from methods.types import VISION_SIGNALS, ModelShape, Step, TowerRead

_FROM_CLS = frozenset(
    {"cls_attention", "cls_attention_early", "cls_attention_first", "cls_attention_last", "cls_attention_tiles"}
)
_RECEIVED = frozenset({"received_attention", "received_attention_early"})
_QUERIES = frozenset({"vision_queries_full", "cls_query"})
_KEYS = frozenset({"vision_keys", "vision_keys_full", "cls_key", "cls_key_full"})
_VALUES = frozenset({"vision_values_full", "cls_value_full"})
_STATES = frozenset({"vision_features", "vision_features_first", "cls_feature", "cls_feature_first", "image_embeds"})
_OF_CLS = frozenset({"cls_feature", "cls_feature_first", "cls_key", "cls_key_full", "cls_query", "cls_value_full"})


def default_reads(names: Iterable[str], shape: ModelShape) -> frozenset[TowerRead]:
    """Return where signals are read that no step says more about.

    Those of an early block: what tokens receive where HiPrune reads it, what CLS gives where VScan reads it, block 5 of 24.
    """
    early = {"received_attention_early": middle_block(shape), "cls_attention_early": block_at(shape, 5, 24)}
    wanted = VISION_SIGNALS & frozenset(names)
    return frozenset(TowerRead(name, early[name]) if name in early else TowerRead.default(name) for name in wanted)


def reads_of(steps: Iterable[Step]) -> frozenset[TowerRead]:
    """Return what steps behind the vision tower read in it."""
    return frozenset(read for step in steps if step.site.stage != 0 for read in step.tower_reads)


@dataclass(frozen=True)
class BlockReads:
    """What is read at each block of a tower.

    Args:
        by_block: reads by the index of the block, those that the output of the tower answers left out.
    """

    by_block: Mapping[int, frozenset[TowerRead]]

    @classmethod
    def of(cls, reads: Iterable[TowerRead], shape: ModelShape) -> BlockReads:
        """Return reads by block; the tower's output has its features in any case."""
        found: dict[int, set[TowerRead]] = {}
        for read in reads:
            if read != TowerRead("vision_features"):
                found.setdefault(block_of(read, shape), set()).add(read)
        return cls({block: frozenset(own) for block, own in sorted(found.items())})

    @property
    def probes(self) -> dict[int, TowerProbe]:
        """The probes of the blocks whose attention is looked at."""
        made = {block: probe_of(own) for block, own in self.by_block.items()}
        return {block: probe for block, probe in made.items() if probe is not None}

    @property
    def behind(self) -> frozenset[int]:
        """The blocks behind which the states are wanted."""
        return frozenset(block for block, own in self.by_block.items() if any(read.signal in _STATES for read in own))

    def at(self, block: int) -> frozenset[TowerRead]:
        """Return what is read at one block."""
        return self.by_block.get(block, frozenset())


def probe_of(reads: Iterable[TowerRead]) -> TowerProbe | None:
    """Return the probe of a tower block; None where nothing is asked of its attention."""
    reads = list(reads)
    names = {read.signal for read in reads}
    from_cls = [read for read in reads if read.signal in _FROM_CLS]
    probe = TowerProbe(
        keys=bool(names & _KEYS),
        received=bool(names & _RECEIVED),
        from_first=any(not read.joined for read in from_cls),
        joined=any(read.joined for read in from_cls),
        queries=bool(names & _QUERIES),
        values=bool(names & _VALUES),
    )
    return probe if names & (_FROM_CLS | _RECEIVED | _QUERIES | _KEYS | _VALUES) else None


@dataclass(frozen=True)
class TokenPlaces:
    """How tables of tower tokens are arranged as the visual tokens of B prompts are.

    Args:
        cls: whether a CLS stands before the tokens of every tile, 0 or 1.
        tiler: of the family; None where tokens stay as they are, inside the tower.
        spans: of the images of each prompt.
    """

    cls: int
    tiler: ImageTiler | None = None
    spans: tuple[ImageSpan, ...] = ()

    @property
    def tiles(self) -> int:
        """Tiles of a prompt."""
        return sum(span.tiles for span in self.spans) if self.tiler is not None else 1

    def tokens(self, table: torch.Tensor) -> torch.Tensor:
        """Return values of the visual tokens, [B, N, C], from those of the tower's, [B * tiles, cls + n, C]."""
        table = table[:, self.cls :]
        if self.tiler is None or (self.tiler.one_to_one and self.tiles == 1):
            return table
        return self.tiler.arrange(table, self.spans)

    def of_cls(self, table: torch.Tensor) -> torch.Tensor:
        """Return the value of CLS, [B, C], from those of the tower's tokens; of several tiles, of that which shows the whole."""
        if self.tiler is None or self.tiles == 1:
            return table[:, 0]
        by_prompt: torch.Tensor = table.unflatten(0, (-1, self.tiles))
        return by_prompt[:, tile_order(self.tiler, self.spans)[0], 0]

    def by_tile(self, table: torch.Tensor) -> torch.Tensor:
        """Return values tile by tile, the one that shows the whole first: [B, T, n, C], averaged over what makes one token."""
        if self.tiler is None:
            return table[:, None, self.cls :]
        small: torch.Tensor = self.tiler.fold_tiles(table[:, self.cls :]).unflatten(0, (-1, self.tiles))
        order = tile_order(self.tiler, self.spans)
        return small if order == list(range(self.tiles)) else small[:, order]


def block_signals(
    adapter: Adapter, reads: Iterable[TowerRead], hidden: torch.Tensor, probe: TowerProbe | None, places: TokenPlaces
) -> dict[str, torch.Tensor]:
    """Return the signals that are read at one block of a tower that is run block by block, by the key of the read.

    Args:
        adapter: the model.
        reads: at this block.
        hidden: [B * tiles, cls + n, Dv] states behind the block, CLS included where the tower has one.
        probe: what the block recorded.
        places: how tokens are arranged.
    """
    return {read.key: _block_signal(adapter, read, hidden, probe, places) for read in reads}


def _block_signal(
    adapter: Adapter, read: TowerRead, hidden: torch.Tensor, probe: TowerProbe | None, places: TokenPlaces
) -> torch.Tensor:
    """One signal of a block."""
    name = read.signal
    if name == "image_embeds":
        return places.tokens(_with_room(adapter.joint_embeds(hidden), places.cls))
    if name in _STATES:
        return places.of_cls(hidden) if name in _OF_CLS else places.tokens(hidden)
    assert probe is not None, "what is read of a block's attention is asked of its probe"
    if name in _FROM_CLS:
        rows = probe.joined_attention if read.joined else probe.attention
        assert rows is not None, "rows are asked for"
        table = rows[:, :, 0].transpose(1, 2)  # [B * tiles, cls + n, H]
        if name in ("cls_attention_tiles", "cls_attention_first"):
            tiles = places.by_tile(table).transpose(2, 3)
            return tiles if name == "cls_attention_tiles" else tiles[:, 0]
        return places.tokens(table).transpose(1, 2)
    if name in _RECEIVED:
        assert probe.mean_received is not None, "received attention is asked for"
        return places.tokens(probe.mean_received.transpose(1, 2)).transpose(1, 2)
    states = probe.key_states if name in _KEYS else probe.query_states if name in _QUERIES else probe.value_states
    assert states is not None, "the states are asked for"  # [B * tiles, H, cls + n, head_dim]
    table = states.mean(1) if name in ("vision_keys", "cls_key") else states.transpose(1, 2).flatten(2)
    return places.of_cls(table) if name in _OF_CLS else places.tokens(table)


def _with_room(table: torch.Tensor, cls: int) -> torch.Tensor:
    """A table of tokens without CLS with a place for it, as `TokenPlaces` takes tables."""
    return torch.nn.functional.pad(table, (0, 0, cls, 0))


def whole_tower_signals(
    adapter: Adapter,
    reads: BlockReads,
    output: WholeTowerOutput,
    probes: Mapping[int, TowerProbe],
    spans: tuple[ImageSpan, ...],
) -> dict[str, torch.Tensor]:
    """Return the signals of a tower that runs as a whole, by the key of the read.

    Args:
        adapter: the model.
        reads: what is wanted, by block.
        output: what the tower gave.
        probes: what its blocks recorded.
        spans: of the images of each prompt.
    """
    found: dict[str, torch.Tensor] = {}
    for block, own in reads.by_block.items():
        for read in own:
            probe, name = probes.get(block), read.signal
            if name in _STATES:
                table = output.behind[block]
            elif name in _RECEIVED:
                assert probe is not None and probe.mean_received is not None, "received attention is asked for"
                table = output.table(probe.mean_received)
            else:
                assert probe is not None, "states are asked of a probe"
                part = probe.key_states if name in _KEYS else probe.query_states if name in _QUERIES else probe.value_states
                assert part is not None, "the states are asked for"
                heads = output.table(part)  # [B * patches, H, head_dim]
                table = heads.mean(1) if name == "vision_keys" else heads.flatten(1)
            arranged = adapter.tiler.arrange(table, spans)
            found[read.key] = arranged.transpose(1, 2) if name in _RECEIVED else arranged
    return found
