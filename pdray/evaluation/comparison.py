"""Answers of policy and baseline to the same prompts, compared by judges: the tables and the figures of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config.evaluation import MEAN
from pdray.engines.vllm_generation import Answer, GeneratorLoader
from pdray.errors import UserError
from pdray.evaluation.endpoint_judge import Verdicts, ask_all
from pdray.evaluation.generation import generate
from pdray.evaluation.reward_judge import rewards
from pdray.evaluation.winrate import average_win_score, length_controlled, value_of, values_of_rewards, win_rate
from pdray.stages import StageContext

POLICY, BASELINE = "policy", "baseline"


@dataclass(frozen=True)
class Judged:
    """What a judge made of all comparisons.

    Attributes:
        values: (n,) float64; see :mod:`pdray.evaluation.winrate`.
        inconsistent: comparisons whose verdict changed with the order.
        reasons: why there is no verdict, in a few words each, the most frequent first.
    """

    values: np.ndarray
    inconsistent: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what came out.

    Attributes:
        table: ``prompt``, ``set``, ``answer.policy``, ``answer.baseline``, ``tokens.policy``, ``tokens.baseline`` and
            ``value.<judge>``, null where the judge failed.
        metrics: ``answers`` and ``win_rates``.
        notes: what is worth a sentence.
    """

    table: pa.Table
    metrics: dict[str, Any]
    notes: list[str]


def compare(ctx: StageContext, prompts: pa.Table, folders: dict[str, str], load: GeneratorLoader) -> Comparison:
    """Let policy and baseline answer, and every judge compare the answers.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        prompts: see :func:`~pdray.evaluation.prompts.read_prompts`.
        folders: of ``policy`` and ``baseline``.
        load: loads a policy.

    Raises:
        UserError: from the engine or a judge; or a judge has no comparison to show.
    """
    texts = prompts["prompt"].to_pylist()
    answers = generate(ctx, folders, texts, load)
    judged = judge_all(ctx, texts, answers)
    longer = np.array([len(one.text) - len(other.text) for one, other in zip(*answers.values(), strict=True)], float)
    sets = prompts["set"].to_pylist()
    columns = {f"answer.{name}": [one.text for one in found] for name, found in answers.items()}
    tokens = {
        f"tokens.{name}": pa.array([one.num_tokens for one in found], pa.int32()) for name, found in answers.items()
    }
    values = {f"value.{name}": pa.array(one.values, from_pandas=True) for name, one in judged.items()}
    rates = {name: figures(one, longer, sets, ctx.config.seed) for name, one in judged.items()}
    return Comparison(
        table=pa.table({"prompt": prompts["prompt"], "set": prompts["set"], **columns, **tokens, **values}),
        metrics={"answers": _facts(answers), "win_rates": rates},
        notes=_notes(answers, judged),
    )


def judge_all(ctx: StageContext, prompts: list[Any], answers: dict[str, list[Answer]]) -> dict[str, Judged]:
    """What each judge says, and the mean of them where there are several.

    Raises:
        UserError: a judge compared nothing, or see those modules.
    """
    evaluation = ctx.config.evaluation
    assert evaluation is not None, "checked with the config"
    texts = {name: [one.text for one in found] for name, found in answers.items()}
    same = np.array(texts[POLICY]) == np.array(texts[BASELINE])
    judged: dict[str, Judged] = {}
    for name, model in evaluation.reward_models.items():
        of_both = [rewards(ctx, name, model, prompts, texts[side]) for side in (POLICY, BASELINE)]
        # The same text, padded beside others, may differ in its last digits.
        judged[name] = Judged(np.where(same, 0.5, values_of_rewards(*of_both)))
    comparisons = list(zip(prompts, texts[POLICY], texts[BASELINE], strict=True))
    for name, endpoint in evaluation.endpoints.items():
        judged[name] = _of_verdicts(ask_all(ctx, name, endpoint, comparisons, evaluation.max_failed))
    if len(judged) > 1:
        judged[MEAN] = Judged(np.mean([one.values for one in judged.values()], axis=0))
    for name, one in judged.items():
        if not np.isfinite(one.values).any():
            raise UserError(
                f"no comparison has a value by the judge {name} ({'; '.join(one.reasons[:3]) or 'all failed'}); mend "
                "the judge and run again, or leave it out"
            )
    return judged


def _of_verdicts(verdicts: Verdicts) -> Judged:
    found = [value_of(*pair) for pair in verdicts.pairs]
    reasons = tuple(f"{count} × {reason}" for reason, count in verdicts.reasons.most_common())
    return Judged(np.array([value for value, _ in found]), sum(flipped for _, flipped in found), reasons)


def figures(judged: Judged, longer: np.ndarray, sets: list[str | None], seed: int) -> dict[str, Any]:
    """Win rate, raw and length-controlled, with 95% intervals, and the counts behind it.

    Args:
        judged: what a judge said, one value at least.
        longer: (n,) characters of the policy's answer less those of the baseline's.
        sets: of each prompt, None where there are none.
        seed: of the bootstrap.
    """
    known = np.isfinite(judged.values)
    values = judged.values[known]
    names = np.array([one or "" for one in sets])[known]
    by_set = {name: values[names == name] for name in sorted(set(names.tolist()))}
    controlled = asdict(length_controlled(values, longer[known], seed))
    score = asdict(average_win_score(by_set, seed))
    found = _rounded(asdict(win_rate(values, seed))) | {
        "wins": int((values > 0.5).sum()),
        "ties": int((values == 0.5).sum()),
        "losses": int((values < 0.5).sum()),
        "failed": int((~known).sum()),
        "inconsistent": judged.inconsistent,
        "length_controlled": _rounded({key: controlled[key] for key in ("mean", "low", "high")}),
        "average_win_score": _rounded({key: score[key] for key in ("mean", "low", "high")}),
    }
    if len(by_set) > 1:
        found["sets"] = {name or "(no set)": _rounded(asdict(win_rate(one, seed))) for name, one in by_set.items()}
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _facts(answers: dict[str, list[Answer]]) -> dict[str, Any]:
    facts: dict[str, Any] = {"prompts": len(answers[POLICY])}
    for name, found in answers.items():
        facts[f"{name}_tokens"] = round(float(np.mean([one.num_tokens for one in found])), 1)
        facts[f"{name}_cut"] = sum(one.cut for one in found)
    return facts


def _notes(answers: dict[str, list[Answer]], judged: dict[str, Judged]) -> list[str]:
    notes = []
    for name, found in answers.items():
        if cut := sum(one.cut for one in found):
            notes.append(f"{cut:,} of {len(found):,} answers of the {name} end at evaluation.generation.max_tokens")
    for name, one in judged.items():
        if name != MEAN and (failed := int((~np.isfinite(one.values)).sum())):
            notes.append(
                f"{failed:,} of {len(one.values):,} comparisons have no verdict of {name} and are left out "
                f"({'; '.join(one.reasons[:3]) or 'rewards that are not finite'})"
            )
    return notes
