"""A seeded preference corpus with planted conflicts, careless annotators and a length bias. Pure Python.

Every response has a true rating from 1 to 5 on each aspect, and says so in words that a small model can learn; a word
after "hardly" means its opposite. A pair is labelled by one aspect, whose annotators err the more often the nearer the
two ratings are (Bradley-Terry). In a planted conflict the other aspects' ratings favour the rejected response in sum;
in every other pair they favour the chosen one. Better responses are padded with empty talk more often, so that length
predicts the label without meaning anything.
"""

from __future__ import annotations

import math
import random
from typing import Any

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
NUM_PAIRS = 2400
CONFLICT_SHARE = 0.25
CARE = 1.0  # log-odds of the right label, per point of difference
NEGATED = 0.25  # of the sentences
PADDING_ODDS = {"chosen": 0.65, "rejected": 0.35}  # per filler sentence

# For each aspect a sentence, and for each rating from 1 to 5 the words that stand for it.
SENTENCES: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "helpfulness": (
        "The advice is {} .",
        (
            ("useless", "pointless", "hopeless", "futile"),
            ("thin", "vague", "meagre", "sketchy"),
            ("usable", "passable", "bearable", "adequate"),
            ("practical", "handy", "fitting", "helpful"),
            ("superb", "invaluable", "brilliant", "splendid"),
        ),
    ),
    "honesty": (
        "It speaks in a way that is {} .",
        (
            ("deceptive", "boastful", "crooked", "lying"),
            ("evasive", "slippery", "coy", "shifty"),
            ("guarded", "neutral", "reserved", "cautious"),
            ("open", "frank", "direct", "fair"),
            ("candid", "upright", "sincere", "truthful"),
        ),
    ),
    "instruction_following": (
        "The task was {} .",
        (
            ("ignored", "refused", "dropped", "botched"),
            ("misread", "skipped", "bent", "delayed"),
            ("attempted", "started", "touched", "halved"),
            ("followed", "met", "handled", "served"),
            ("nailed", "mastered", "completed", "perfected"),
        ),
    ),
    "truthfulness": (
        "Its facts are {} .",
        (
            ("invented", "false", "absurd", "bogus"),
            ("doubtful", "shaky", "dated", "loose"),
            ("mixed", "uneven", "partial", "plausible"),
            ("sound", "right", "solid", "sourced"),
            ("exact", "verified", "proven", "precise"),
        ),
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
        own, *others = (chosen[name] - rejected[name] for name in sorted(ASPECTS, key=lambda name: name != aspect))
        labelled = rng.random() < 1 / (1 + math.exp(-CARE * own))
        if labelled and (sum(others) < 0 if conflict else sum(others) > 0):
            break
    ratings = {f"score_chosen.{name}": chosen[name] for name in ASPECTS}
    ratings |= {f"score_rejected.{name}": rejected[name] for name in ASPECTS}
    return {
        "pair_id": f"demo-{index:05}",
        "prompt": _prompt(rng),
        "chosen": _response(rng, chosen, PADDING_ODDS["chosen"]),
        "rejected": _response(rng, rejected, PADDING_ODDS["rejected"]),
        "aspect": aspect,
        "source": "pdray demo",
        **ratings,
    }


def _response(rng: random.Random, ratings: dict[str, int], padding_odds: float) -> str:
    sentences = [text.format(_words(rng, words, ratings[name])) for name, (text, words) in SENTENCES.items()]
    sentences += [filler for filler in FILLERS if rng.random() < padding_odds]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _words(rng: random.Random, words: tuple[tuple[str, ...], ...], rating: int) -> str:
    if rng.random() < NEGATED:
        return f"hardly {rng.choice(words[5 - rating])}"
    return rng.choice(words[rating - 1])


def make_held_out(num_pairs: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs that no corpus has, labelled by the sum of the true ratings, whose length says nothing.

    Args:
        num_pairs: how many.
        seed: the same seed gives the same pairs.

    Returns:
        ``prompt``, ``chosen``, the truly better response, and ``rejected``.
    """
    rng = random.Random(f"held out {seed}")  # noqa: S311 - a seeded world
    return [_held_out_pair(rng) for _ in range(num_pairs)]


def _held_out_pair(rng: random.Random) -> dict[str, Any]:
    while True:
        sides = [{name: rng.randint(1, 5) for name in ASPECTS} for _ in range(2)]
        rejected, chosen = sorted(sides, key=lambda ratings: sum(ratings.values()))
        if sum(chosen.values()) > sum(rejected.values()):
            break
    return {
        "prompt": _prompt(rng),
        "chosen": _response(rng, chosen, PADDING_ODDS["rejected"]),
        "rejected": _response(rng, rejected, PADDING_ODDS["rejected"]),
    }


def _prompt(rng: random.Random) -> str:
    return rng.choice(QUESTIONS).format(rng.choice(TOPICS))
