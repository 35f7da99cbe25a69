"""Small data sets in the published layouts, with every column that these have; the texts and ratings are made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ULTRAFEEDBACK_ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
HELPSTEER_ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def write_lines(path: Path, rows: list[Row]) -> str:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def completion(text: str, ratings: dict[str, Any], overall_score: float = 7.5) -> Row:
    """One of openbmb/UltraFeedback's completions."""
    annotations: Row = {}
    for aspect in ULTRAFEEDBACK_ASPECTS:
        rating = ratings.get(aspect, "N/A")
        annotations[aspect] = {"Rating": rating if isinstance(rating, str) else str(rating), "Rationale": "as it is"}
        if aspect in ("truthfulness", "helpfulness"):
            annotations[aspect] |= {"Type": ["1"], "Rationale For Rating": "so it is"}
    return {
        "annotations": annotations,
        "custom_system_prompt": "You are a helpful assistant.",
        "model": "alpaca-7b",
        "principle": "helpfulness",
        "response": text,
        "critique": "Could be longer.",
        "overall_score": overall_score,
        "fine-grained_score": 3.25,
    }


def ultrafeedback_row(prompt: str, completions: list[Row], source: str = "evol_instruct") -> Row:
    """A row of openbmb/UltraFeedback."""
    return {
        "source": source,
        "instruction": prompt,
        "models": ["alpaca-7b", "bard", "gpt-4", "starchat"][: len(completions)],
        "completions": completions,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def ultrafeedback(count: int, seed: int = 0) -> list[Row]:
    """Prompts with four responses each, whose aspects go together more often than not."""
    rng = random.Random(seed)

    def ratings() -> dict[str, Any]:
        quality = rng.uniform(1, 5)
        drawn = {name: min(5, max(1, round(rng.gauss(quality, 1)))) for name in ULTRAFEEDBACK_ASPECTS}
        return {name: "N/A" if rng.random() < 0.02 else str(rating) for name, rating in drawn.items()}

    return [
        ultrafeedback_row(
            f"What is {i}?",
            [completion(f"It is {i}, says {j}.", ratings(), overall_score=10.0 - j) for j in range(4)],
            source=rng.choice(["evol_instruct", "flan_v2_cot", "sharegpt"]),
        )
        for i in range(count)
    ]


def ultrafeedback_cleaned(prompt: str, chosen: str, rejected: str, ratings: tuple[float, float]) -> Row:
    """A row of argilla/ultrafeedback-binarized-preferences-cleaned."""
    row: Row = {"source": "sharegpt", "prompt": prompt}
    for side, text, rating in zip(("chosen", "rejected"), (chosen, rejected), ratings, strict=True):
        turns = [{"content": prompt, "role": "user"}, {"content": text, "role": "assistant"}]
        row |= {side: turns, f"{side}-rating": rating, f"{side}-model": "gpt-4"}
    return row


def helpsteer(prompt: str, response: str, *ratings: Any) -> Row:
    """A row of nvidia/HelpSteer or HelpSteer2: five ratings from 0 to 4."""
    return {"prompt": prompt, "response": response, **dict(zip(HELPSTEER_ASPECTS, ratings, strict=True))}


def helpsteer3(context: list[Row], response1: str, response2: str, preference: int) -> Row:
    """A row of nvidia/HelpSteer3's preference subset."""
    individual = [{"score": preference, "reasoning": "It is so.", "feedback1": "good", "feedback2": "bad"}]
    return {
        "domain": "general",
        "language": "english",
        "context": context,
        "response1": response1,
        "response2": response2,
        "overall_preference": preference,
        "individual_preference": individual,
    }


def pku_saferlhf(prompt: str, better: int, safer: int, responses: tuple[str, str] = ("yes", "no")) -> Row:
    """A row of PKU-Alignment/PKU-SafeRLHF."""
    row: Row = {"prompt": prompt, "prompt_source": "Alpaca3-70B"}
    for i, response in enumerate(responses):
        row |= {
            f"response_{i}": response,
            f"response_{i}_source": "Alpaca3-8B",
            f"is_response_{i}_safe": safer == i,
            f"response_{i}_harm_category": {"Violence": safer != i, "Drugs": False},
            f"response_{i}_severity_level": 0 if safer == i else 2,
            f"response_{i}_sha256": "0" * 64,
        }
    return row | {"better_response_id": better, "safer_response_id": safer}


def shp(history: str, a: str, b: str, scores: tuple[int, int], labels: int) -> Row:
    """A row of stanfordnlp/SHP; ``labels`` is 1 where A is preferred."""
    return {
        "post_id": "qt3nxl",
        "domain": "askculinary_train",
        "upvote_ratio": 0.98,
        "history": history,
        "c_root_id_A": "hkh25sc",
        "c_root_id_B": "hkh25lp",
        "created_at_utc_A": 1636822112,
        "created_at_utc_B": 1636822110,
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": a,
        "human_ref_B": b,
        "labels": labels,
        "seconds_difference": 2.0,
        "score_ratio": max(scores) / min(scores),
    }
