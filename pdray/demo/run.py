"""Writes the demo's inputs once, runs the ordinary pipeline on them and says in plain words what happened."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pdray.config import load_config
from pdray.demo.corpus import CONFLICT_SHARE, make_held_out, make_pairs
from pdray.errors import EXIT_OK
from pdray.evaluation.accuracy import estimate
from pdray.evaluation.stage import PAIRS
from pdray.pipeline import run_pipeline
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.summary import summarise

SETTINGS: dict[str, Any] = {
    "proxies": {
        "kind": "shared",
        "epochs": 4,
        "learning_rate": 3e-3,
        "batch_size": 32,
        "length_penalty": 0.01,
        "length_baseline": False,
    },
    "scores": {"engine": "vllm", "max_tokens": 128, "cpu_cache_gib": 0.25},
    "selection": {"budget": 0.3},
    "alignment": {
        "learning_rate": 5e-4,
        "batch_size": 8,
        "pairs_per_step": 32,
        "max_tokens": 128,
        "max_steps": 22,  # an epoch of the kept pairs; as many steps for every strategy
        "zero_stage": 2,
        "num_workers": 2,
    },
}


# The method last, so that what the run folder calls current is its own.
COMPARED = {"all": "all pairs", "random": "a random 30%", "pd": "the 30% of most negative divergence"}


def run_demo(folder: str, write_only: bool = False) -> int:
    """Run the demo in a folder; what an earlier run finished there is reused.

    Args:
        folder: the run folder; inputs go to ``inputs`` inside it.
        write_only: stop after writing the inputs and ``run.yaml``.

    Returns:
        the exit code.
    """
    root = Path(folder).absolute()
    config_file = root / "inputs" / "run.yaml"
    if not os.path.isfile(config_file):
        _write_inputs(root)
    if write_only:
        print(f"wrote {config_file}; run it with: pdray run {config_file}")
        return EXIT_OK
    summaries = {}
    for strategy in COMPARED:
        code = run_pipeline(load_config(config_file, [f"selection.strategy={strategy}"]))
        summaries[strategy] = summarise(root)
    print("\n" + tell(summaries["pd"]) + "\n\n" + compare(root, summaries))
    return code


def _write_inputs(root: Path) -> None:
    from pdray.demo.models import build_models

    logging.getLogger("transformers").setLevel(logging.ERROR)
    inputs = root / "inputs"
    RunStore(root).make()
    StoragePath(str(inputs)).make_folder()
    pairs = make_pairs()
    corpus = inputs / "corpus.jsonl.gz"
    with gzip.GzipFile(corpus, "wb", mtime=0) as file:
        file.writelines(json.dumps(pair).encode() + b"\n" for pair in pairs)
    with open(inputs / "held-out.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in make_held_out())
    texts = [pair[name] for pair in pairs for name in ("prompt", "chosen", "rejected")]
    build_models(texts, inputs / "proxy-base", inputs / "policy")
    settings = {"run": str(root), "corpus": {"path": str(corpus)}, **SETTINGS}
    settings["proxies"] = {"base_model": str(inputs / "proxy-base"), **SETTINGS["proxies"]}
    settings["alignment"] = {"policy": str(inputs / "policy"), **SETTINGS["alignment"]}
    settings["evaluation"] = {"pairs": str(inputs / "held-out.jsonl")}
    # Written last: its presence says that the inputs are complete.
    (inputs / "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def tell(summary: dict[str, Any]) -> str:
    """The demo's result in plain words.

    Args:
        summary: of :func:`pdray.summary.summarise`.
    """
    stages = summary["stages"]
    corpus, selection, alignment = stages["corpus"], stages["selection"], stages["alignment"]
    conflict, budget = selection["conflict"], f"{selection['budget']:.0%}"
    accuracies = ", ".join(
        f"{aspect} {proxy['held_out_accuracy']:.0%}" for aspect, proxy in stages["proxies"]["aspects"].items()
    )
    root = Path(summary["run"])
    return "\n".join(
        [
            f"{corpus['rows']:,} pairs went in, each labelled by one of {len(corpus['aspect_rows'])} aspects; in "
            f"{conflict['all']:.1%} of them we had planted a conflict: the other aspects oppose the label "
            f"(asked for: {CONFLICT_SHARE:.0%}).",
            f"Small proxy reward models learned the aspects (held-out accuracy: {accuracies}), scored the pairs, and "
            f"the preference divergence of each pair followed.",
            f"Among the {selection['rows']:,} pairs with the most negative divergence ({budget}), "
            f"{conflict['kept']:.1%} are conflicts; among a random {budget}, {conflict['random']:.1%}.",
            f"DPO on the kept pairs took {alignment['steps']} steps with {alignment['num_workers']} workers "
            f"(DeepSpeed ZeRO-{alignment['zero_stage']}): loss {alignment['first_loss']:.3f} at first, "
            f"{alignment['last_loss']:.3f} at last.",
            "",
            f"kept pairs (TRL's preference format)  {root / selection['folder'] / 'kept'}",
            f"divergence of every pair              {root / selection['folder'] / 'pairs'}",
            f"rank of each kept pair                {root / selection['folder'] / 'ranked'}",
            f"trained policy                        {root / alignment['policy_path']}",
            f"configuration                         {root / 'inputs' / 'run.yaml'}",
            f"all figures                           pdray show {root}",
        ]
    )


def compare(root: Path, summaries: dict[str, dict[str, Any]]) -> str:
    """What training on each selection gave, in a table and a sentence.

    Args:
        root: the run folder.
        summaries: strategy -> of :func:`pdray.summary.summarise`.
    """
    stages = {strategy: summary["stages"] for strategy, summary in summaries.items()}
    tables = {strategy: (root / one["evaluation"]["folder"] / PAIRS) for strategy, one in stages.items()}
    right = {strategy: pq.read_table(path, columns=["right", "prompt_hash"]) for strategy, path in tables.items()}
    lines = [
        f"Which policy is better? Each was trained for {stages['pd']['alignment']['steps']} steps; then each was asked "
        f"which response of {stages['pd']['evaluation']['rows']:,} new pairs is better by the true ratings.",
        "",
        f"{'trained on':<38}{'pairs':>7}{'conflicts':>11}   right (95% interval)",
    ]
    for strategy, about in reversed(COMPARED.items()):
        selection, accuracy = stages[strategy]["selection"], stages[strategy]["evaluation"]["accuracy"]
        lines.append(
            f"{about:<38}{selection['rows']:>7,}{selection['conflict']['kept']:>11.1%}   {accuracy['mean']:.1%} "
            f"({accuracy['low']:.1%} to {accuracy['high']:.1%})"
        )
    lines.append("")
    for other in ("random", "all"):
        gain = estimate(
            right["pd"]["right"].to_numpy() - right[other]["right"].to_numpy(), right["pd"]["prompt_hash"].to_numpy(), 0
        )
        verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "no different that can be told"
        lines.append(
            f"Against {COMPARED[other]}, the most negative divergence is {verdict}: {100 * gain.mean:+.1f} points "
            f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f})."
        )
    return "\n".join(lines)
