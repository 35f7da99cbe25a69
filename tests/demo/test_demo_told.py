"""What the demo says follows from its figures, also where they speak against PD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pdray.demo.comparison import ARMS, SEEDS
from pdray.demo.told import interval, rewards_of, tell, verdict

LEVELS = {"start": 3.0, "pd": 3.5, "random": 3.3, "all": 3.3}
PAIRS = {"start": 0, "pd": 720, "random": 720, "all": 2400}
CONFLICTS = {"start": 0, "pd": 36, "random": 180, "all": 600}
SUMMARY: dict[str, Any] = {
    "run": "runs/demo",
    "stages": {
        "corpus": {"rows": 2400, "aspect_rows": {"honesty": 1200, "truthfulness": 1200}},
        "proxies": {"aspects": {"honesty": {"held_out_accuracy": 0.71}, "truthfulness": {"held_out_accuracy": 0.74}}},
        "selection": {
            "rows": 720,
            "budget": 0.3,
            "conflict": {"all": 0.25, "kept": 0.05, "random": 0.251},
            "folder": "selection-1",
        },
        "alignment": {
            "steps": 100,
            "num_workers": 2,
            "zero_stage": 2,
            "first_loss": 0.693,
            "last_loss": 0.2,
            "policy_path": "alignment-1/policy",
        },
    },
}


def comparison(levels: dict[str, float]) -> dict[str, Any]:
    """Rewards about some means, which go up and down with the prompt for all arms alike."""
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 1, 256)
    found: dict[str, Any] = {"pairs": {}, "conflicts": {}, "rewards": {}}
    for arm in ARMS:
        for seed in SEEDS:
            name = f"{arm} {seed}"
            found["pairs"][name], found["conflicts"][name] = PAIRS[arm], CONFLICTS[arm]
            found["rewards"][name] = (levels[arm] + easy + rng.normal(0, 0.2, 256)).tolist()
    return found


def test_the_table_has_a_row_for_each_arm() -> None:
    lines = tell(SUMMARY, comparison(LEVELS)).splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("trained on"))
    start, pd, random, all_pairs = (line.split("  ") for line in lines[head + 1 : head + 5])
    assert (start[0], pd[0], random[0], all_pairs[0]) == ("the start", "PD's 30%", "a random 30%", "all pairs")
    told = [[cell.strip() for cell in row if cell.strip()] for row in (pd, random, all_pairs)]
    assert [row[1:3] for row in told] == [["720", "5.0%"], ["720", "25.0%"], ["2,400", "25.0%"]]
    assert len(told[0]) == 4
    assert told[1][4].startswith("+0.2")


def test_the_intervals_are_paired_and_of_whole_prompts() -> None:
    found = comparison(LEVELS)
    pd, random = rewards_of(found, "pd"), rewards_of(found, "random")
    assert pd.shape == (len(SEEDS), 256)
    lead, alone = interval(pd - random), interval(pd)
    assert lead.mean == pytest.approx(pd.mean() - random.mean())
    assert lead.high - lead.low < 0.1 < 0.2 < alone.high - alone.low


@pytest.mark.parametrize(("pd", "words"), [(3.5, "better than"), (3.1, "worse than"), (3.3, "not to be told from")])
def test_the_last_sentence_is_what_the_intervals_say(pd: float, words: str) -> None:
    found = comparison(LEVELS | {"pd": pd})
    assert verdict(interval(rewards_of(found, "pd") - rewards_of(found, "all"))) == words
    told = tell(SUMMARY, found)
    assert f"is {words} the one of as many random pairs, and {words} the one of all pairs." in told


def test_what_the_run_did_comes_first() -> None:
    told = tell(SUMMARY, comparison(LEVELS))
    assert "2,400 pairs went in, each labelled by one of 2 aspects; in 25.0%" in told
    assert "honesty 71%, truthfulness 74%" in told
    assert "5.0% are conflicts; among a random 30%, 25.1%" in told
    assert "runs/demo/comparison.json" in told
