"""What a case starts from: a small run that is accepted."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings

from tests.tiny import tiny_bert, tiny_encoder, tiny_llama_lm
from tests.whole_run import write_yaml

ASPECTS = ("helpful", "honest")
PAIRS = 40


@dataclass(frozen=True)
class World:
    """A folder with everything that a run needs.

    Attributes:
        root: the folder.
        settings: of a run that is accepted, with absolute paths.
    """

    root: Path
    settings: dict[str, Any]

    @property
    def config(self) -> Path:
        """The settings as a file."""
        return self.root / "run.yaml"

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.settings["run"])


def cases(count: int) -> settings:
    """So many cases in the short form of the suite, ten times as many in the long one."""
    return settings(max_examples=count * (10 if os.environ.get("PDRAY_FUZZ") == "long" else 1))


def pairs(count: int = PAIRS) -> list[dict[str, Any]]:
    """Good pairs of two aspects."""
    words = ("good", "kind", "wrong", "bad", "time", "people")
    return [
        {
            "pair_id": f"p{i}",
            "prompt": f"what is the {words[i % 6]} {words[i // 6 % 6]} way",
            "chosen": f"the {words[i % 5]} answer is {words[i % 3]}",
            "rejected": f"no {words[i % 4]} {words[i % 5]} answer",
            "aspect": ASPECTS[i % 2],
        }
        for i in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_world(root: Path) -> World:
    """Write models, corpus and config. No model has a chat template: each would be tried in a process of its own."""
    for seed, aspect in enumerate(ASPECTS):
        tiny_bert(root / aspect, seed=seed)
    tiny_encoder(root / "base")
    tiny_llama_lm(root / "policy", chat=False)
    write_lines(root / "pairs.jsonl", pairs())
    values = {
        "run": str(root / "run"),
        "cluster": {"num_cpus": 2},
        "corpus": {"path": str(root / "pairs.jsonl"), "texts_per_shard": 30},
        "proxies": {"models": {aspect: str(root / aspect) for aspect in ASPECTS}},
        "scores": {"engine": "transformers", "max_tokens": 32, "num_actors": 1, "parity_rows": 4},
        "alignment": {"policy": str(root / "policy"), "max_tokens": 32, "max_steps": 1, "pairs_per_step": 2},
    }
    write_yaml(root / "run.yaml", values)
    return World(root, values)


def make_selection_world(root: Path) -> World:
    """A run of 36 shards that stops at the selection, with ready models, on whatever cluster there is."""
    world = make_world(root)
    for section in ("alignment", "cluster"):
        del world.settings[section]
    world.settings["corpus"]["texts_per_shard"] = 15
    write_lines(root / "pairs.jsonl", pairs(600))
    write_yaml(world.config, world.settings)
    return world
