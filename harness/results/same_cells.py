"""Which cells of a run are the same under two names: they keep the same tokens and answer alike. Needs no torch.

HiRED on an image of one tile is FasterVLM. Such a pair is one method that is measured twice: were both counted, every correction
for the number of methods would be too strict, and the best of a budget could be level with itself.
"""

from __future__ import annotations

from collections.abc import Hashable

from harness.results.cell_kinds import CellRow, is_competitor
from harness.results.types import JsonObject
from harness.store.runs import RunFolder

_DIFFER = """
SELECT 1 FROM samples AS mine LEFT JOIN samples AS theirs ON theirs.cell = ? AND theirs.question = mine.question
WHERE mine.cell = ? AND (
    theirs.cell IS NULL OR mine.kept IS NOT theirs.kept OR mine.kept_count IS NOT theirs.kept_count
    OR mine.prediction IS NOT theirs.prediction OR mine.score IS NOT theirs.score
    OR mine.recall IS NOT theirs.recall OR mine.recall_before IS NOT theirs.recall_before
    OR (mine.kl IS NULL) <> (theirs.kl IS NULL)
    OR (mine.kl <> theirs.kl AND abs(mine.kl - theirs.kl) > max(1e-6, 1e-3 * min(abs(mine.kl), abs(theirs.kl))))
    OR (mine.failed IS NULL) <> (theirs.failed IS NULL))
LIMIT 1
"""
"""A question of one cell that another has not, or under which the two differ; it ends at the first.

Kept tokens are stored of the last layer alone: which tokens were there before shows in the distribution of the first answer token
(KL to the unpruned model), equal here but for rounding, and in the evidence that entered the LLM.
"""
_PROVED = "SELECT 1 FROM samples WHERE cell = ? AND failed IS NULL AND kept IS NOT NULL AND kept_count > 0 LIMIT 1"
"""An answer whose kept tokens are known: without any, nothing tells two cells from each other."""


def same_cells(run: RunFolder) -> dict[int, str]:
    """Return the cells of a run that are the same as one before them, and the method of that first one.

    Two cells are the same where both compete, at one budget, with equal numbers of tokens in every LLM layer and tokens
    numbered alike; where both have the same questions; and where of each the kept tokens, the evidence among them and on entering
    the LLM, the answer, its score, whether it failed and, but for rounding, the KL of the first answer token are equal. What a
    merged token is made of is not stored, so cells that merge and keep no token as it is are the same as no other, nor are those
    that keep all tokens or were skipped; of cells that hand over means beside kept tokens the KL tells whether these are equal.

    Args:
        run: whose samples are stored.

    Returns:
        By the id of a cell the method of the first, in the order of the request, that it is the same as. The first itself is
        not there.
    """
    firsts: dict[Hashable, list[tuple[int, str]]] = {}
    found: dict[int, str] = {}
    for ident, _, facts in run.cells():
        if facts["skipped"] is not None or not facts["prunes"] or not is_competitor(facts):
            continue
        known = firsts.setdefault(_measured(facts), [])
        same = next((method for first, method in known if _equal(run, first, ident)), None)
        if same is None:
            known.append((ident, facts["method"]))
        else:
            found[ident] = same
    return found


def _measured(facts: JsonObject) -> Hashable:
    """What two cells must have in common before their answers are looked at: all of the row but the method, and the schedule."""
    return CellRow.of(facts)._replace(method=""), tuple(facts.get("schedule") or ())


def _equal(run: RunFolder, first: int, second: int) -> bool:
    """Whether two cells have the same questions, and kept and answered the same under each."""
    counts = [run.connection.execute("SELECT count(*) FROM samples WHERE cell = ?", (one,)).fetchone() for one in (first, second)]
    if counts[0] != counts[1] or run.connection.execute(_PROVED, (first,)).fetchone() is None:
        return False
    return run.connection.execute(_DIFFER, (first, second)).fetchone() is None
