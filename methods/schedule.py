"""From steps to the visual tokens present at every block and layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from methods.types import Budget, BudgetError, Method, ModelShape, Schedule, Step


def schedule(shape: ModelShape, steps: Iterable[Step], grid: tuple[int, int] | None = None) -> Schedule:
    """Return the visual tokens at every ViT block and LLM layer of a model.

    Args:
        shape: the model.
        steps: the method's steps, in any order.
        grid: the grid to which the image was shrunk; (0, 0) means no image at all.

    Returns:
        The schedule; without an image, a tower and projector that do not run.
    """
    if grid == (0, 0):
        return Schedule((), (), 0, (0,) * shape.layers)
    if grid is not None:
        shape = shape.at_grid(grid)
    steps = sorted(steps, key=lambda step: step.site)
    cls = int(shape.has_cls)
    inside = {(step.site.layer, step.behind): step.after for step in steps if step.site.stage == 0}
    count, attention, mlp = shape.visual_tokens, [], []

    def per_tile(count: int) -> int:
        return (shape.tile_tokens or count * shape.merge // shape.tiles) + cls

    for block in range(shape.vision_layers):
        attention.append(per_tile(count))
        count = inside.get((block, False), count)
        mlp.append(per_tile(count))
        count = inside.get((block, True), count)
    projected = shape.tile_tokens * shape.tiles // shape.merge or count  # padding is projected too
    for step in steps:
        if step.site.stage == 1:
            count = step.after
            projected = count if step.space == "tower" else projected
    later = {step.site.layer: step.after for step in steps if step.site.stage == 2}
    llm = []
    for layer in range(shape.layers):
        count = later.get(layer, count)
        llm.append(count)
    selection = sum(step.flops for step in steps)
    return Schedule(tuple(attention), tuple(mlp), projected, tuple(llm), selection, cached(llm, steps))


def cached(counts: Sequence[int], steps: Iterable[Step]) -> tuple[int, ...] | None:
    """Return the visual tokens in the cache of each LLM layer once the prompt has run.

    A layer is cut by the last step behind it that cuts it.

    Args:
        counts: visual tokens in each LLM layer.
        steps: of the method.

    Returns:
        As many figures; None where no step cuts caches.
    """
    cuts = [(step.cuts_cache_from, step.site.layer) for step in steps if step.site.stage == 2]
    if all(first is None for first, _ in cuts):
        return None
    by = [[layer, *(at for first, at in cuts if first is not None and first <= layer < at)] for layer in range(len(counts))]
    return tuple(counts[max(layers)] for layers in by)


def plan(method: Method, shape: ModelShape, budget: Budget) -> tuple[tuple[Step, ...], Schedule]:
    """Return a method's steps at a budget, and their schedule.

    A budget of all tokens leaves every token where it is, whatever the method: it has no step then.

    Raises:
        BudgetError: where the method cannot meet the budget on a model of this shape.
    """
    if budget.tokens < 1:
        raise BudgetError(f"{budget.tokens} tokens asked, at least 1 must stay")
    if budget.tokens > shape.visual_tokens:
        raise BudgetError(f"{budget.tokens} tokens asked, the image has {shape.visual_tokens}")
    if method.budgeted and budget.tokens == shape.visual_tokens:
        return (), schedule(shape, ())
    steps = method.steps(shape, budget)
    return steps, schedule(shape, steps, method.image_grid(shape, budget))
