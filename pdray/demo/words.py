"""The words of the demo's world, and what they stand for."""

from __future__ import annotations

from itertools import product

import numpy as np

# For each aspect a sentence, and for the ratings from 1 to 5 the words that stand for them.
SENTENCES = {
    "helpfulness": "the advice is {} .",
    "honesty": "it sounds {} .",
    "instruction_following": "the task was {} .",
    "truthfulness": "its facts are {} .",
}
WORDS = {
    "helpfulness": (
        "useless pointless hopeless futile",
        "thin vague meagre sketchy",
        "usable passable bearable adequate",
        "practical handy fitting helpful",
        "superb invaluable brilliant splendid",
    ),
    "honesty": (
        "deceptive boastful crooked lying",
        "evasive slippery coy shifty",
        "guarded neutral reserved cautious",
        "open frank direct fair",
        "candid upright sincere truthful",
    ),
    "instruction_following": (
        "ignored refused dropped botched",
        "misread skipped bent delayed",
        "attempted started touched halved",
        "followed met handled served",
        "nailed mastered completed perfected",
    ),
    "truthfulness": (
        "invented false absurd bogus",
        "doubtful shaky dated loose",
        "mixed uneven partial plausible",
        "sound right solid sourced",
        "exact verified proven precise",
    ),
}
ASPECTS = tuple(sorted(WORDS))
FILLERS = ("there is more to say .", "many people ask this .", "let us think it over .", "the subject is wide .")
TOPICS = ("bread", "chess", "gardens", "taxes", "rivers", "music", "bikes", "stars", "maps", "tea", "clocks", "birds")
READERS = ("children", "beginners", "experts", "teachers", "friends", "students", "parents", "neighbours")
LENGTHS = ("briefly", "fully", "plainly", "gently", "quickly", "carefully", "again", "today")
RATING_OF = {
    aspect: {word: rating for rating, bank in enumerate(banks, 1) for word in bank.split()}
    for aspect, banks in WORDS.items()
}


def prompt_of(topic: str, reader: str, length: str) -> str:
    """One of the prompts, which have equally many words."""
    return f"explain {topic} to {reader} {length} ?"


def every_prompt() -> list[str]:
    """The 768 prompts."""
    return [prompt_of(*words) for words in product(TOPICS, READERS, LENGTHS)]


def true_reward(response: str) -> float:
    """Mean over the aspects of the rating that a response's words stand for, in [1, 5].

    An aspect of which it says nothing rates 1; one of which it speaks twice, the mean.
    """
    words = response.split()
    found = [[ratings[word] for word in words if word in ratings] for ratings in RATING_OF.values()]
    return float(np.mean([np.mean(one) if one else 1.0 for one in found]))


def vocabulary() -> list[str]:
    """Every word of the world, sorted."""
    texts = [*SENTENCES.values(), *FILLERS, *(bank for banks in WORDS.values() for bank in banks)]
    texts += every_prompt()
    return sorted({word for text in texts for word in text.split()} - {"{}"})
