"""A seeded preference corpus with planted conflicts and a length bias. Pure Python.

Every response has a true rating from 1 to 5 on each aspect, and says so in words that a small model can learn. A pair
is labelled by one aspect. In a planted conflict the other aspects' ratings favour the rejected response in sum; in
every other pair they favour the chosen one. Better responses are padded with empty talk more often, so that length
predicts the label without meaning anything.
"""

from __future__ import annotations

import random
from typing import Any

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
NUM_PAIRS = 2400
CONFLICT_SHARE = 0.25
PADDING_ODDS = {"chosen": 0.65, "rejected": 0.35}  # per filler sentence

# For each aspect a sentence, and for each rating from 1 to 5 the words that stand for it.
SENTENCES: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "helpfulness": (
        "The advice is {} .",
        (
            ("useless", "pointless"),
            ("thin", "vague"),
            ("usable", "passable"),
            ("practical", "handy"),
            ("superb", "invaluable"),
        ),
    ),
    "honesty": (
        "It speaks in a {} way .",
        (
            ("deceptive", "boastful"),
            ("evasive", "slippery"),
            ("guarded", "neutral"),
            ("open", "frank"),
            ("candid", "upright"),
        ),
    ),
    "instruction_following": (
        "The task was {} .",
        (
            ("ignored", "refused"),
            ("misread", "skipped"),
            ("attempted", "started"),
            ("followed", "met"),
            ("nailed", "mastered"),
        ),
    ),
    "truthfulness": (
        "Its facts are {} .",
        (("invented", "false"), ("doubtful", "shaky"), ("mixed", "uneven"), ("sound", "right"), ("exact", "verified")),
    ),
}
FILLERS = (
    "There is a lot more to say here .",
    "Many people ask about this every day .",
    "Let us take a moment to think it over .",
    "As you may know the subject is wide .",
    "All of this depends on many things .",
)
TOPICS = ("bread", "chess", "gardens", "taxes", "rivers", "music", "bikes", "stars", "maps", "tea", "clocks", "birds")
QUESTIONS = ("How do I start with {} ?", "What should I know about {} ?", "Can you explain {} to me ?")


def make_pairs(
    num_pairs: int = NUM_PAIRS, conflict_share: float = CONFLICT_SHARE, seed: int = 0
) -> list[dict[str, Any]]:
    """Make the corpus.

    Args:
        num_pairs: how many pairs.
        conflict_share: share of planted conflicts; their number is rounded to the nearest whole.
        seed: the same seed gives the same corpus.

    Returns:
        rows of the corpus schema with the true ratings of both responses.
    """
    rng = random.Random(seed)  # noqa: S311 - a seeded world
    planted = [index < round(conflict_share * num_pairs) for index in range(num_pairs)]
    rng.shuffle(planted)
    return [_pair(rng, index, conflict) for index, conflict in enumerate(planted)]


def _pair(rng: random.Random, index: int, conflict: bool) -> dict[str, Any]:
    aspect = ASPECTS[index % len(ASPECTS)]
    while True:
        chosen = {name: rng.randint(1, 5) for name in ASPECTS}
        rejected = {name: rng.randint(1, 5) for name in ASPECTS}
        others = sum(chosen[name] - rejected[name] for name in ASPECTS if name != aspect)
        if chosen[aspect] > rejected[aspect] and (others < 0 if conflict else others > 0):
            break
    ratings = {f"score_chosen.{name}": chosen[name] for name in ASPECTS}
    ratings |= {f"score_rejected.{name}": rejected[name] for name in ASPECTS}
    return {
        "pair_id": f"demo-{index:05}",
        "prompt": rng.choice(QUESTIONS).format(rng.choice(TOPICS)),
        "chosen": _response(rng, chosen, PADDING_ODDS["chosen"]),
        "rejected": _response(rng, rejected, PADDING_ODDS["rejected"]),
        "aspect": aspect,
        "source": "pdray demo",
        **ratings,
    }


def _response(rng: random.Random, ratings: dict[str, int], padding_odds: float) -> str:
    sentences = [text.format(rng.choice(words[ratings[name] - 1])) for name, (text, words) in SENTENCES.items()]
    sentences += [filler for filler in FILLERS if rng.random() < padding_odds]
    rng.shuffle(sentences)
    return " ".join(sentences)
