"""From the rated responses to one prompt to one pair and the one aspect that labels it. Pure, seeded by content."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from pdray.builders.units import Unit
from pdray.corpus.rows import canonical
from pdray.hashing import digest, hash64

FEW = "fewer than two different responses"
UNRATED = "fewer than two responses rated on the drawn aspect"
TIE = "tie on the drawn aspect"


def draw(unit: Unit, aspects: tuple[str, ...], seed: int) -> dict[str, Any] | str:
    """The pair of a unit, or why there is none.

    One aspect is drawn among all of the data set, then a pair among those of responses that it tells apart. Both draws
    depend on the seed and on the texts of the unit alone, never on the order of rows or responses.

    Args:
        unit: rated responses to a prompt.
        aspects: of the data set, sorted.
        seed: of the draws.

    Returns:
        ``pair_id``, prompt, chosen, rejected, aspect, overall and ``score_<side>.<aspect>``; a reason otherwise.
        ``overall`` is the side with the higher mean over the aspects that both are rated on, or ``equal``.
    """
    if unit.reason is not None:
        return unit.reason
    given = [(text, ratings) for text, ratings in zip(unit.responses, unit.ratings, strict=True) if text]
    # Of a text that stands there twice the one stays whose ratings come first as text.
    distinct = dict(sorted(given, key=canonical, reverse=True))
    texts = sorted(distinct)
    if len(texts) < 2:
        return FEW
    unit_id = digest(canonical(unit.prompt), *texts)
    aspect = aspects[_drawn(unit_id, f"{seed} aspect", len(aspects))]
    rated = [text for text in texts if distinct[text][aspect] is not None]
    if len(rated) < 2:
        return UNRATED
    unequal = [pair for pair in combinations(rated, 2) if distinct[pair[0]][aspect] != distinct[pair[1]][aspect]]
    if not unequal:
        return TIE
    two = unequal[_drawn(unit_id, f"{seed} pair", len(unequal))]
    rejected, chosen = sorted(two, key=lambda text: distinct[text][aspect] or 0.0)
    pair: dict[str, Any] = {
        "pair_id": digest(canonical(unit.prompt), *two),
        "prompt": unit.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "aspect": aspect,
        "overall": _overall(distinct[chosen], distinct[rejected]),
    }
    for name in aspects:
        pair[f"score_chosen.{name}"] = distinct[chosen][name]
        pair[f"score_rejected.{name}"] = distinct[rejected][name]
    return pair


def _drawn(unit_id: str, salt: str, count: int) -> int:
    return int(hash64([unit_id], salt)[0]) % count


def _overall(chosen: dict[str, float | None], rejected: dict[str, float | None]) -> str:
    both = ((chosen[name], rejected[name]) for name in chosen)
    total = round(
        sum(a - b for a, b in both if a is not None and b is not None), 9
    )  # the means' difference has its sign
    return "chosen" if total > 0 else "rejected" if total < 0 else "equal"
