"""The demo's corpus: its true rewards are known, and it is hard, for words only hint at ratings and annotators slip.

A response has a true rating from 1 to 5 on each of four aspects and a sentence about each. The word in it stands for
the true rating with probability :data:`CLARITY`, else for any rating, so that the best possible reader of words tells
the better of two responses in :func:`bayes_accuracy` of the cases (83%). A pair is labelled by one aspect, whose two
ratings differ; its annotator takes the better one with the probability of Bradley-Terry, σ(:data:`CARE` × difference),
which about 9% of the labels get wrong. In a conflict the other aspects' ratings favour the rejected response in sum
(the paper's sense, :func:`pdray.corpus.conflict.conflicts`), in every other pair the chosen one; the number of
conflicts is exact. Chosen responses are padded a little more often (10 points of probability), so that length predicts
the label without meaning anything. Prompts name one of 12 topics, a reader and a manner; which response is better never
depends on them, but no two held-out pairs have the same prompt.

Held-out pairs are labelled by the mean of all true ratings and padded without bias. Nothing is trained on them.

The constants were set before any pair was selected here, by :func:`bayes_accuracy` and, on a seed outside the table,
by two figures: the held-out accuracy of proxies that learn single aspects (wanted: 70 to 85%; 75% of 2,400 pairs) and
the share of held-out pairs whose better response the policy finds likelier before any DPO (52 to 54%). They were not
changed afterwards.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from pdray.demo.words import ASPECTS, FILLERS, LENGTHS, READERS, SENTENCES, TOPICS, WORDS, every_prompt, prompt_of

NUM_PAIRS = 2400
CONFLICT_SHARE = 0.25
RATINGS = 5
CLARITY = 0.7  # of the words that stand for the true rating; the others stand for any of the five alike
CARE = 1.5  # log-odds of the right label, per point of difference
PADDING_ODDS = {"chosen": 0.55, "rejected": 0.45}  # of each filler
FAIR_ODDS = 0.5


def make_pairs(
    num_pairs: int = NUM_PAIRS, conflict_share: float = CONFLICT_SHARE, seed: int = 0
) -> list[dict[str, Any]]:
    """The corpus.

    Args:
        num_pairs: how many pairs; the aspects label them in turn.
        conflict_share: share of planted conflicts; their number is rounded to the nearest whole.
        seed: the same share and seed give the same corpus.

    Returns:
        ``pair_id``, ``prompt``, ``chosen``, ``rejected``, ``aspect``, ``source``, and ``score_chosen.<aspect>`` and
        ``score_rejected.<aspect>``, the true ratings.
    """
    rng = random.Random(f"pairs {conflict_share} {seed}")  # noqa: S311 - a seeded world
    planted = [index < round(conflict_share * num_pairs) for index in range(num_pairs)]
    rng.shuffle(planted)
    return [_pair(rng, index, conflict) for index, conflict in enumerate(planted)]


def make_held_out(num_pairs: int, seed: int) -> list[dict[str, Any]]:
    """Pairs labelled by the mean of the true ratings, which differs; the same for every level.

    Args:
        num_pairs: at most the 768 prompts that there are.
        seed: the same seed gives the same pairs.

    Returns:
        ``prompt``, ``chosen``, ``rejected``.
    """
    rng = random.Random(f"held out {seed}")  # noqa: S311 - a seeded world
    return [_held_out_pair(rng, prompt) for prompt in rng.sample(every_prompt(), num_pairs)]


def bayes_accuracy() -> float:
    """How often the best reader of words tells which of two responses is better on an aspect, where they differ."""
    likelihood = np.full((RATINGS, RATINGS), (1 - CLARITY) / RATINGS) + CLARITY * np.eye(RATINGS)  # word given rating
    joint = np.einsum("aw,bv->abwv", likelihood, likelihood) / RATINGS**2
    better, worse = (np.einsum("ab,abwv->wv", side, joint) for side in (np.tri(RATINGS, k=-1), np.tri(RATINGS, k=-1).T))
    return float(np.maximum(better, worse).sum() / (better + worse).sum())


def _pair(rng: random.Random, index: int, conflict: bool) -> dict[str, Any]:
    aspect = ASPECTS[index % len(ASPECTS)]
    while True:
        chosen, rejected = _ratings(rng), _ratings(rng)
        differences = {name: chosen[name] - rejected[name] for name in ASPECTS}
        own = differences.pop(aspect)
        others = sum(differences.values())
        labelled = rng.random() < 1 / (1 + math.exp(-CARE * own))
        if own and labelled and (others < 0 if conflict else others > 0):
            break
    prompt = prompt_of(rng.choice(TOPICS), rng.choice(READERS), rng.choice(LENGTHS))
    return {
        "pair_id": f"demo-{index:05}",
        "prompt": prompt,
        "chosen": _response(rng, chosen, PADDING_ODDS["chosen"]),
        "rejected": _response(rng, rejected, PADDING_ODDS["rejected"]),
        "aspect": aspect,
        "source": "pdray demo",
        **{f"score_chosen.{name}": rating for name, rating in chosen.items()},
        **{f"score_rejected.{name}": rating for name, rating in rejected.items()},
    }


def _held_out_pair(rng: random.Random, prompt: str) -> dict[str, Any]:
    while True:
        rejected, chosen = sorted((_ratings(rng), _ratings(rng)), key=lambda ratings: sum(ratings.values()))
        if sum(chosen.values()) > sum(rejected.values()):
            break
    sides = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt, **{side: _response(rng, ratings, FAIR_ODDS) for side, ratings in sides.items()}}


def _ratings(rng: random.Random) -> dict[str, int]:
    return {name: rng.randint(1, RATINGS) for name in ASPECTS}


def _response(rng: random.Random, ratings: dict[str, int], padding_odds: float) -> str:
    sentences = [sentence.format(_word(rng, name, ratings[name])) for name, sentence in SENTENCES.items()]
    sentences += [filler for filler in FILLERS if rng.random() < padding_odds]
    rng.shuffle(sentences)
    # The space parts the response from its prompt, of which tokenizers see one string.
    return " " + " ".join(sentences)


def _word(rng: random.Random, aspect: str, rating: int) -> str:
    shown = rating if rng.random() < CLARITY else rng.randint(1, RATINGS)
    return rng.choice(WORDS[aspect][shown - 1].split())
