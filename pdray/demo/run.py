"""Writes the demo's inputs once, runs the ordinary pipeline on them and says in plain words what happened."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import yaml

from pdray.api import Run
from pdray.demo.world import CONFLICT_SHARE, make_pairs
from pdray.storage import StoragePath
from pdray.store import RunStore
from pdray.summary import summarise

SETTINGS: dict[str, Any] = {
    "proxies": {"epochs": 4, "learning_rate": 3e-3, "batch_size": 32, "length_penalty": 0.01},
    "scores": {"engine": "vllm", "max_tokens": 128, "cpu_cache_gib": 0.25},
    "selection": {"budget": 0.3},
    "alignment": {
        "learning_rate": 5e-4,
        "batch_size": 8,
        "pairs_per_step": 32,
        "max_tokens": 128,
        "zero_stage": 2,
        "num_workers": 2,
    },
}


def run_demo(folder: str, write_only: bool = False) -> None:
    """Run the demo in a folder; what an earlier run finished there is reused.

    Args:
        folder: the run folder; inputs go to ``inputs`` inside it.
        write_only: stop after writing the inputs and ``run.yaml``.

    Raises:
        UserError: as :meth:`pdray.Run.run`.
    """
    root = Path(folder).absolute()
    config_file = root / "inputs" / "run.yaml"
    if not os.path.isfile(config_file):
        _write_inputs(root)
    if write_only:
        print(f"wrote {config_file}; run it with: pdray run {config_file}")
        return
    Run(config_file).run()
    print("\n" + tell(summarise(root)))


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
    texts = [pair[name] for pair in pairs for name in ("prompt", "chosen", "rejected")]
    build_models(texts, inputs / "proxy-base", inputs / "policy")
    settings = {"run": str(root), "corpus": {"path": str(corpus)}, **SETTINGS}
    settings["proxies"] = {"base_model": str(inputs / "proxy-base"), **SETTINGS["proxies"]}
    settings["alignment"] = {"policy": str(inputs / "policy"), **SETTINGS["alignment"]}
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
            f"a page with plots and pairs to read   {root / 'report.html'}",
        ]
    )
