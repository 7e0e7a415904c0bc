"""All figures of kept sets, and of random subsets of the same size: what chance gives. One Gram matrix an image serves all.

The figures are those of `diversity`, `coverage` and `collapse.cluster_visits`, here of many sets at once, by gathering.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from metrics.collapse import SUBSETS, gram_clusters, random_subsets, set_hashes
from metrics.coverage import coverage
from metrics.diversity import gram_spectrum, mean_cosine, of_spectrum, unit
from metrics.figures import CLUSTERS, COVERAGE, FIGURES

__all__ = ["FIGURES", "TIE", "Space", "figures", "null", "spread"]

TIE = "tie"
"""Name under which `null` has the hashes of its subsets beside their figures."""
_CHUNK = 1 << 19  # float64 numbers held at once, 4 MB: what stays near the processor
_SPANNED = 1e-10  # eigenvalues over this part of the largest count as spanned, as in `diversity.representation`


@dataclass(frozen=True, eq=False)
class Space:
    """The visual tokens of a batch of images, and what all their subsets share. Make it once for all kept sets.

    Args:
        features: [B, N, D] of any float type.
        grid: (h, w) with h*w = N, or None where the tokens are no full grid.
    """

    features: torch.Tensor
    grid: tuple[int, int] | None

    @classmethod
    def of(cls, features: torch.Tensor, grid: tuple[int, int] | None = None) -> Space:
        """Return the space of visual tokens.

        Args:
            features: [B, N, D] visual tokens of any float type.
            grid: (h, w) in tokens.

        Raises:
            ValueError: where features are not [B, N, D] or N is not h*w.
        """
        if features.ndim != 3:
            raise ValueError(f"features are {tuple(features.shape)}; a space needs [B, N, D]")
        if grid is not None and grid[0] * grid[1] != features.shape[1]:
            raise ValueError(f"{features.shape[1]} tokens are no grid of {grid[0]}x{grid[1]}; give grid=None")
        return cls(features, grid)

    @property
    def count(self) -> int:
        """Tokens an image, N."""
        return self.features.shape[1]

    @property
    def width(self) -> int:
        """Length of a token's vector, D."""
        return self.features.shape[2]

    @cached_property
    def units(self) -> torch.Tensor:
        """L2-normalised tokens, float64 [B, N, D]; zero tokens stay zero."""
        return unit(self.features)

    @cached_property
    def gram(self) -> torch.Tensor:
        """Cosines of all pairs of tokens, float64 [B, N, N]; 0 of a zero token, with itself too."""
        if self.features.dtype == torch.float64 or self.width < self.count:
            gram = self.units @ self.units.mT
        else:
            # products of shorter types cannot leave float64's range, so that norms may be divided out afterwards
            tokens = self.features.to(torch.float64)
            gram = tokens @ tokens.mT
            lengths = gram.diagonal(dim1=1, dim2=2)
            scale = torch.where(lengths > 0, lengths, torch.inf).rsqrt()
            gram.mul_(scale[:, :, None]).mul_(scale[:, None, :])
        return gram

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Squared norms of the normalised tokens, float64 [B, N]: 1, or 0 of a zero token."""
        return self.gram.diagonal(dim1=1, dim2=2).clone()

    @cached_property
    def square(self) -> torch.Tensor:
        """The Gram matrices squared, float64 [B, N, N]."""
        return self.gram @ self.gram if self.count <= self.width else self.units @ self.scatter @ self.units.mT

    @cached_property
    def scatter(self) -> torch.Tensor:
        """X'X of all normalised tokens, float64 [B, D, D]."""
        return self.units.mT @ self.units

    @cached_property
    def apart(self) -> torch.Tensor:
        """2 - 2 cosine of all pairs of tokens, their squared distance, [B, N, N]; infinite of a token with itself.

        Rounded to float32 at the end, a relative 6e-8: it is read far more often than it is made.
        """
        apart = self.gram.mul(-2.0).add_(2.0).clamp_(min=0.0).float()
        apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        return apart

    @cached_property
    def apart_with_zeros(self) -> torch.Tensor | None:
        """`apart` where there are zero tokens, which lie 1 from all others and 0 from each other; None where none are."""
        zero = self.lengths < 0.5
        if not zero.any():
            return None
        return self.apart - zero[:, :, None].float() - zero[:, None, :].float()

    @cached_property
    def clusters(self) -> torch.Tensor:
        """Cluster of each token, int64 [B, N]; see `collapse.token_clusters`."""
        return gram_clusters(self.gram)


def figures(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return all FIGURES of kept sets.

    Args:
        space: the images' tokens.
        images: int64 [R] the image of each set, 0..B-1.
        chosen: int64 [R, K] its tokens, none twice, K >= 1.

    Returns:
        float64 [R] each, as `diversity.diversity`, `diversity.representation`, `coverage.coverage` and
        `collapse.cluster_visits` (visited, largest) give them; the coverage figures are nan where there is no grid.

    Raises:
        ValueError: no tokens, or shapes that do not belong together.
    """
    if chosen.ndim != 2 or images.shape != chosen.shape[:1] or not 1 <= chosen.shape[1] <= space.count:
        raise ValueError(
            f"images {tuple(images.shape)}, chosen {tuple(chosen.shape)} of {space.count} tokens; "
            "they are [R] and [R, K] with K of at least 1"
        )
    found = _image_figures(space, images, chosen)
    if space.grid is None:
        return found | {name: torch.full_like(found["vendi"], torch.nan) for name in COVERAGE}
    return found | coverage(_mask(chosen, space.count), space.grid)


def null(
    space: Space, keep: int, seeds: torch.Tensor, subsets: int = SUBSETS, images: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return all FIGURES of random subsets of the same size on the same images. They depend on image and K alone.

    Every image has subsets of its own, the same for all figures: an image's chance says nothing of another's, so that
    images are independent.

    Args:
        space: the images' tokens.
        keep: K, 1..N.
        seeds: int64 [B] one random stream an image; see `collapse.random_subsets`.
        subsets: S.
        images: int64 [I] the images that it is wanted of, 0..B-1; by default all, I = B.

    Returns:
        float64 [I, S] each, the coverage figures nan where there is no grid; and under `TIE` the subsets' hashes by
        `collapse.set_hashes`, int64 [I, S], by which `collapse.percentiles` ranks equal figures.

    Raises:
        ValueError: where K is not within 1..N.
    """
    if not 1 <= keep <= space.count:
        raise ValueError(f"keep is {keep} of {space.count} tokens; a random subset has 1 to {space.count}")
    device = space.features.device
    images = torch.arange(len(space.features), device=device) if images is None else images.to(device)
    own = seeds.to(device)[images]
    chosen = random_subsets(space.count, keep, subsets, generator_seed=own)
    found = figures(space, images.repeat_interleave(subsets), chosen.flatten(0, 1))
    return {name: values.view(-1, subsets) for name, values in found.items()} | {TIE: set_hashes(space.count, chosen, own)}


def spread(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return those of `figures` that one spectrum gives: the ranks, ``log_det``, ``vendi`` and ``mean_cosine``.

    For sets that are held against others in these alone; arguments as of `figures`.
    """
    return _by_chunk(lambda *some: of_spectrum(*_spectrum(space, *some)[:2], some[1].shape[1]), space, images, chosen)


def _mask(chosen: torch.Tensor, count: int) -> torch.Tensor:
    return torch.zeros(len(chosen), count, dtype=torch.bool, device=chosen.device).scatter_(1, chosen, True)


def _by_chunk(
    some: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
    space: Space,
    images: torch.Tensor,
    chosen: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Figures of sets, as many at a time as fit."""
    keep, width = chosen.shape[1], space.width
    step = max(1, _CHUNK // (3 * keep * keep if keep <= width else width * (keep + width)))
    parts = [some(images[at : at + step], chosen[at : at + step]) for at in range(0, max(len(chosen), 1), step)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _image_figures(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Diversity, representation and cluster figures."""
    found = _by_chunk(lambda *some: _spanned(space, *some), space, images, chosen)
    energy = space.lengths.sum(1)[images]
    residual = 1.0 - found.pop("explained") / torch.where(energy > 0, energy, 1.0)
    found["residual"] = torch.where(energy > 0, residual, 0.0).clamp(0.0, 1.0)
    return found | _distances(space, images, chosen) | _visits(space, images, chosen)


def _gather(table: torch.Tensor, images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The rows and columns of the chosen, [R, K, K], of a table [B, N, N]; one flat index is the fastest to read."""
    count = table.shape[1]
    places = (images[:, None, None] * count + chosen[:, :, None]) * count + chosen[:, None, :]
    return table.flatten().index_select(0, places.flatten()).view(places.shape)


def _spectrum(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eigenvalues [R, min(K, D)], ascending, mean cosine [R], and the smaller of X_k X_k' and X_k' X_k."""
    keep = chosen.shape[1]
    if keep <= space.width:
        gram = _gather(space.gram, images, chosen)
        return gram_spectrum(gram), mean_cosine(gram), gram
    rows = images[:, None] * space.count + chosen
    units = space.units.flatten(0, 1).index_select(0, rows.flatten()).view(-1, keep, space.width)
    scatter = units.mT @ units
    values = gram_spectrum(scatter)
    return values, ((units.sum(1) ** 2).sum(1) - values.sum(1)) / (keep * (keep - 1)), scatter


def _spanned(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Figures of what the chosen span, and ``explained``: ||P X||^2 over all tokens, P the projection on their span."""
    values, cosine, smaller = _spectrum(space, images, chosen)
    if chosen.shape[1] <= space.width:
        explained = _explained(space, images, chosen, smaller, values)
    else:
        explained = _explained_by_scatter(space, images, smaller, values)
    return of_spectrum(values, cosine, chosen.shape[1]) | {"explained": explained}


def _explained(
    space: Space, images: torch.Tensor, chosen: torch.Tensor, gram: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """||P X||^2 = tr(G_kk^+ (G^2)_kk), float64 [R].

    By Cholesky where the chosen are independent. Elsewhere by the eigenvectors v with an eigenvalue l over the cut-off:
    sum |G v|^2 / l, which does not cancel.
    """
    full = values[:, 0] > _SPANNED * values[:, -1]
    whole = bool(full.all())
    safe = gram if whole else torch.where(full[:, None, None], gram, torch.eye(gram.shape[1]).to(gram))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(safe)[0])
    explained: torch.Tensor = torch.linalg.vecdot(inverse.flatten(1), _gather(space.square, images, chosen).flatten(1))
    if not whole:
        lacking = (~full).nonzero()[:, 0]
        values, vectors = torch.linalg.eigh(gram[lacking])
        spanned = values > _SPANNED * values[:, -1:]
        scale = torch.where(spanned, torch.where(spanned, values, 1.0).rsqrt(), 0.0)
        along = vectors.mT @ space.gram[images[lacking, None], chosen[lacking]]
        explained[lacking] = ((scale[:, :, None] * along) ** 2).sum((1, 2))
    return explained


def _explained_by_scatter(space: Space, images: torch.Tensor, scatter: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The same from X_k'X_k [R, D, D]: all there is where it has full rank, else what lies along its eigenvectors."""
    explained = space.lengths.sum(1)[images]
    lacking = (values[:, 0] <= _SPANNED * values[:, -1]).nonzero()[:, 0]
    if len(lacking):
        values, vectors = torch.linalg.eigh(scatter[lacking])
        along = (vectors * (space.scatter[images[lacking]] @ vectors)).sum(1)
        explained[lacking] = torch.where(values > _SPANNED * values[:, -1:], along, 0.0).sum(1)
    return explained


def _least(table: torch.Tensor, images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Least entry of each token with the chosen ones: table [B, N, N] to [R, N]."""
    count, keep = table.shape[1], chosen.shape[1]
    rows, table = images[:, None] * count + chosen, table.flatten(0, 1)
    step = max(1, _CHUNK // (2 * keep * count))
    parts = (rows[start : start + step] for start in range(0, max(len(rows), 1), step))
    return torch.cat([table.index_select(0, part.flatten()).view(-1, keep, count).amin(1) for part in parts])


def _distances(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """Nearest cosine among the chosen, and distances of all tokens to the nearest chosen one."""
    least = _least(space.apart, images, chosen)
    to_other = least.gather(1, chosen).double()
    cosine = 1.0 - 0.5 * to_other.mean(1) if chosen.shape[1] > 1 else torch.full_like(to_other[:, 0], torch.nan)
    if space.apart_with_zeros is not None:
        least = _least(space.apart_with_zeros, images, chosen)
    nearest = least.double().scatter_(1, chosen, 0.0).sqrt_()
    dropped = max(space.count - chosen.shape[1], 1)
    return {"nearest_cosine": cosine, "k_centre_radius": nearest.amax(1), "mean_distance_to_kept": nearest.sum(1) / dropped}


def _visits(space: Space, images: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """How the chosen spread over the clusters of near-identical tokens."""
    there = (space.clusters.amax(1) + 1)[images]
    counts = torch.zeros(len(chosen), int(space.clusters.max()) + 1, dtype=torch.int32, device=chosen.device)
    member = space.clusters.flatten()[images[:, None] * space.count + chosen]
    counts.scatter_add_(1, member, torch.ones_like(member, dtype=torch.int32))
    visited, largest = (counts > 0).sum(1).double() / there, counts.amax(1).double() / chosen.shape[1]
    return dict(zip(CLUSTERS, (visited, largest), strict=True))
