"""Run folders as a finished run leaves them, written without running anything."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.schema import (
    PAIRS,
    TEXTS,
    AlignmentOutput,
    CorpusOutput,
    EvaluationOutput,
    Output,
    ProxiesOutput,
    RewardModel,
    ScoresOutput,
    SelectionOutput,
    pairs_schema,
    scores_schema,
    selection_schema,
)
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.store import MANIFEST, RunStore
from pdray.texts import text_tables

ASPECTS = ["helpful", "honest", "safe"]
BUDGET = 0.3
CONFIG: dict[str, Any] = {
    "seed": 0,
    "corpus": {"path": ["pairs.jsonl"]},
    "proxies": {"train": "all", "kind": "shared", "models": None, "gpus_per_worker": 0.0, "num_workers": 1},
    "scores": {"engine": "vllm", "dtype": "auto", "gpus_per_actor": 2.0},
    "selection": {"strategy": "pd", "budget": BUDGET, "gamma": 0.9},
    "alignment": {"loss": "dpo", "beta": 0.1, "num_workers": 2, "zero_stage": 2, "gpus_per_worker": 0.0},
    "evaluation": {"max_pairs": 2000, "endpoints": {"<gpt>": {}}},
}


@dataclass(frozen=True)
class Made:
    """A run that was written.

    Attributes:
        run: its folder.
        ids: n ids.
        own: (n,) int, index of the labelling aspect.
        margins: (n, κ) float32, NaN for the own aspect.
        divergence: (n,) float64.
        kept: (n,) bool.
        conflict: (n,) bool.
        source: n names.
        tokens: (n,) tokens of the chosen response.
    """

    run: StoragePath
    ids: list[str]
    own: np.ndarray
    margins: np.ndarray
    divergence: np.ndarray
    kept: np.ndarray
    conflict: np.ndarray
    source: list[str]
    tokens: np.ndarray

    @property
    def cut(self) -> float:
        """Divergence of the last pair that is kept."""
        return float(self.divergence[self.kept].max())


def make_run(
    root: Path | StoragePath,
    pairs: int = 120,
    shards: int = 2,
    texts: dict[int, Any] | None = None,
    until: str = "evaluation",
    aspects: list[str] = ASPECTS,
    notes: dict[str, list[str]] | None = None,
    rated: bool = True,
    licenses: tuple[str | None, ...] = (),
) -> Made:
    """Write a run folder.

    Args:
        root: where; strings or messages are decided by ``texts``.
        pairs: n; the pairs are dealt to the shards one after the other.
        shards: S.
        texts: pair -> its (prompt, chosen, rejected) in place of plain ones; all strings, or messages for all pairs.
        until: the last stage that is complete; those after it are not begun.
        aspects: κ names.
        notes: stage -> what its manifest tells.
        rated: whether conflicts are known.
        licenses: dealt to the pairs in turn; none: the corpus has no such column.
    """
    run = root if isinstance(root, StoragePath) else StoragePath(str(root))
    made = _draw(run, pairs, aspects)
    chat = bool(texts) and not isinstance(next(iter(texts.values()))[0], str) if texts else False
    folders = {name: run / f"{name}-{number:08x}" for number, name in enumerate(_outputs(made, aspects, shards, chat))}
    stages = list(folders)
    finished = stages[: stages.index(until) + 1]
    RunStore(str(run)).write_state(
        {"config": {"run": str(run), **CONFIG}, "stages": {name: folder.name for name, folder in folders.items()}}
    )
    for shard, rows in enumerate(np.array_split(np.arange(pairs), shards)):
        _write_shard(made, folders, shard, shards, rows, texts or {}, aspects, rated, chat, licenses)
    for name, (output, facts) in _outputs(made, aspects, shards, chat, rated, bool(licenses)).items():
        if name in finished:
            manifest = _manifest(name, folders[name].name, output, facts, pairs) | {
                "notes": (notes or {}).get(name, [])
            }
            _write_manifest(folders[name], manifest)
    steps = [
        {"step": step, "loss": 0.693 / step, "rewards/margins": step / 9, "rewards/accuracies": 0.5}
        for step in (1, 2, 3)
    ]
    log = [*steps, {"step": 3, "eval_loss": 0.3, "eval_rewards/margins": 0.2, "eval_rewards/accuracies": 0.9}]
    (folders["alignment"] / "training.jsonl").write_bytes("\n".join(map(json.dumps, log)).encode())
    return made


def _draw(run: StoragePath, pairs: int, aspects: list[str]) -> Made:
    rng = np.random.default_rng(0)
    own = rng.integers(0, len(aspects), pairs)
    common = rng.normal(0.3, 0.5, (pairs, 1))
    margins = np.clip(common + rng.normal(0, 0.4, (pairs, len(aspects))), -1, 1).astype(np.float32)
    margins[np.arange(pairs), own] = np.nan
    divergence = -np.nansum(margins.astype(np.float64), axis=1)
    kept = np.zeros(pairs, bool)
    kept[np.argsort(divergence, kind="stable")[: int(BUDGET * pairs)]] = True
    conflict = rng.random(pairs) < 1 / (1 + np.exp(-2 * divergence))
    return Made(
        run,
        [f"pair-{number:07}" for number in range(pairs)],
        own,
        margins,
        divergence,
        kept,
        conflict,
        [("web", "chat")[number % 3 == 0] for number in range(pairs)],
        rng.integers(1, 300, pairs),
    )


def _write_shard(
    made: Made,
    folders: dict[str, StoragePath],
    shard: int,
    shards: int,
    rows: np.ndarray,
    texts: dict[int, Any],
    aspects: list[str],
    rated: bool,
    chat: bool,
    licenses: tuple[str | None, ...],
) -> None:
    def turns(text: str, role: str) -> Any:
        return [{"role": role, "content": text}] if chat else text

    plain = [
        texts.get(row)
        or (turns(f"question {row}", "user"), *(turns(f"{side} answer {row}", "assistant") for side in ("good", "bad")))
        for row in rows.tolist()
    ]
    prompts = [one[0] for one in plain for _ in range(2)]
    tables = text_tables(prompts, [response for one in plain for response in one[1:]], chat)
    ratings = aspects if rated else []
    columns: dict[str, Any] = {
        "pair_id": [made.ids[row] for row in rows],
        "aspect": [aspects[made.own[row]] for row in rows],
        "chosen_row": np.arange(0, 2 * len(rows), 2, dtype=np.int32),
        "rejected_row": np.arange(1, 2 * len(rows), 2, dtype=np.int32),
        "overall": pa.nulls(len(rows), pa.string()),
        "source": [made.source[row] for row in rows],
        **({"license": [licenses[row % len(licenses)] for row in rows]} if licenses else {}),
        **{f"score_{side}.{aspect}": np.zeros(len(rows)) for aspect in ratings for side in ("chosen", "rejected")},
        **({"conflict": made.conflict[rows]} if rated else {}),
    }
    tables[PAIRS] = pa.table(columns, schema=pairs_schema(ratings, bool(licenses)))
    lengths = np.repeat(made.tokens[rows], 2).astype(np.int32)
    scores = {f"reward.{aspect}": np.zeros(len(lengths), np.float32) for aspect in aspects}
    scored = pa.table(
        scores | {"num_tokens": lengths, "truncated": np.zeros(len(lengths), bool)}, schema=scores_schema(aspects)
    )
    selected = pa.table(
        {
            "pair_id": columns["pair_id"],
            "pd": made.divergence[rows],
            "kept": made.kept[rows],
            **{
                f"margin.{aspect}": pa.array(made.margins[rows, index], mask=made.own[rows] == index)
                for index, aspect in enumerate(aspects)
            },
        },
        schema=selection_schema(aspects),
    )
    for name, written in (("corpus", tables), ("scores", {TEXTS: scored}), ("selection", {PAIRS: selected})):
        shards_of(folders[name], shards).write(shard, written, 0, {})


def folder_of(run: StoragePath, stage: str) -> StoragePath:
    """The folder of a stage."""
    (name,) = [folder for folder in run.folders() if folder.startswith(f"{stage}-")]
    return run / name


def shards_of(folder: StoragePath, shards: int) -> ShardedFolder:
    """The shards of a stage."""
    return ShardedFolder(folder, _fingerprint(folder.name), shards)


def _fingerprint(folder: str) -> str:
    return folder.rpartition("-")[2] + "0" * 56


def _outputs(
    made: Made, aspects: list[str], shards: int, chat: bool, rated: bool = True, licensed: bool = False
) -> dict[str, tuple[Output, dict[str, Any]]]:
    pairs, kept = len(made.ids), int(made.kept.sum())
    of_aspects = {aspect: int((made.own == index).sum()) for index, aspect in enumerate(aspects)}
    kept_of = {aspect: int(made.kept[made.own == index].sum()) for index, aspect in enumerate(aspects)}
    proxy = {"train_pairs": 30, "held_out_pairs": 50, "held_out_accuracy": 0.8, "held_out_interval": [0.67, 0.89],
             "length_correlation": {"before": 0.4, "after": 0.1}, "length_penalty": 0.01}  # fmt: skip
    conflict = {"all": float(made.conflict.mean()), "kept": float(made.conflict[made.kept].mean())} if rated else None
    models = [RewardModel("proxies-00000001/model", list(aspects))]
    accuracy = {"mean": 0.7, "low": 0.6, "high": 0.8, "pairs": 50.0}
    sides = {"mean": 0.55, "low": 0.45, "high": 0.65}
    win_rate = {
        **sides, "pairs": 40, "wins": 20, "ties": 4, "losses": 16, "failed": 7, "inconsistent": 3,
        "length_controlled": sides | {"mean": 0.52}, "sets": {"<koala>": accuracy},
        "average_win_score": {"mean": 1.1, "low": 0.9, "high": 1.3},
    }  # fmt: skip
    answers = {"prompts": 47, "policy_tokens": 31.5, "policy_cut": 1, "baseline_tokens": 20.5, "baseline_cut": 0}
    return {
        "corpus": (
            CorpusOutput(
                shards,
                pairs,
                2 * pairs,
                list(aspects),
                of_aspects,
                chat,
                list(aspects) if rated else [],
                licensed=licensed,
            ),
            {"quarantine_reasons": {"equal responses": 4, "unknown aspect": 1}, "shards_digest": "ab" * 32},
        ),
        "proxies": (
            ProxiesOutput(models, dict.fromkeys(aspects, 0.01)),
            {"trained": True, "train": "all", "aspects": dict.fromkeys(aspects, proxy)},
        ),
        "scores": (ScoresOutput(shards, list(aspects), 2 * pairs), {"num_actors": 3, "texts_per_second": 20.5}),
        "selection": (
            SelectionOutput(shards, kept, chat, dict.fromkeys(aspects, 1.0)),
            {
                "strategy": "pd",
                "budget": BUDGET,
                "cut_pd": made.cut,
                "quantiles": dict.fromkeys(aspects, 1.5),
                "kept_per_aspect": kept_of,
                "chosen_longer": {"all": 0.6, "kept": 0.55},
                "conflict": conflict,
                "ids_digest": "cd" * 32,
            },
        ),
        "alignment": (
            AlignmentOutput("alignment-00000004/policy"),
            {"loss": "dpo", "first_loss": 0.693, "last_loss": 0.231, "steps": 3, "train_pairs": kept},
        ),
        "evaluation": (
            EvaluationOutput(50),
            {
                "accuracy": accuracy,
                "aspects": {aspects[0]: accuracy},
                "answers": answers,
                "win_rates": {"<gpt>": win_rate},
            },
        ),
    }


def _manifest(name: str, folder: str, output: Output, facts: dict[str, Any], pairs: int) -> dict[str, Any]:
    out = {"selection": int(BUDGET * pairs), "alignment": int(BUDGET * pairs), "evaluation": 50, "scores": 2 * pairs}
    bad = 5 if name == "corpus" else 0
    rows = out.get(name, pairs)
    dropped = {"over the budget": pairs - rows} if name == "selection" else {}
    return {
        "stage": name,
        "version": 1,
        "fingerprint": _fingerprint(folder),
        "config": {},
        "inputs": {},
        "packages": {"pdray": "0.1.0", "ray": "2.60.0"},
        "started": "2026-01-02T03:04:05Z",
        "rows_in": rows + bad + sum(dropped.values()),
        "rows_out": rows,
        "quarantined": bad,
        "dropped": dropped,
        "output": asdict(output),
        "metrics": facts,
        "attempts": 1,
        "seconds": 1800.0,
    }


def edit_manifest(run: StoragePath, stage: str, change: Any) -> None:
    """Rewrite the manifest of a stage by a function that changes it in place."""
    folder = folder_of(run, stage)
    manifest = (folder / MANIFEST).read_json()
    change(manifest)
    _write_manifest(folder, manifest)


def _write_manifest(folder: StoragePath, manifest: dict[str, Any]) -> None:
    (folder / MANIFEST).write_bytes(json.dumps(manifest).encode())  # half characters as JSON has them
