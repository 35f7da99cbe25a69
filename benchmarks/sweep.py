"""How long a run takes on 1 to 512 GPUs, for 1 million to 1 billion pairs: simulated, by the arithmetic of pdray plan.

    python -m benchmarks.sweep

writes ``results/sweep.json`` and ``results/sweep.svg``. Nothing is run and nothing was measured on a GPU: the
assumptions stand in the JSON, beside the figures. The run is that of ``configs/ten-million-pairs.yaml``, with a shared
proxy of Llama-3.2-1B, a policy of Llama-3.1-8B on 30% of the pairs, and as many workers as there are GPUs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.common import write_result
from benchmarks.pictures import pyplot
from benchmarks.tables import RESULTS, ROOT
from pdray.config import RunConfig
from pdray.models.weights import Shapes
from pdray.plan.corpus import CorpusFacts
from pdray.plan.cost import Known, Model
from pdray.plan.flops import Lengths
from pdray.plan.hardware import GPUS, hardware_of
from pdray.plan.lengths import Texts
from pdray.plan.shape import ModelShape, shape_of
from pdray.plan.stages import stage_costs
from pdray.plan.told import assumptions

CONFIG = ROOT / "configs" / "ten-million-pairs.yaml"
GPU = "H100"
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PAIRS = (10**6, 10**7, 10**8, 10**9)
# A corpus like UltraFeedback, with a prompt of its own for each pair.
TOKENS = {"prompt": 180, "response": 260}
BYTES_PER_TOKEN = 4.2
ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
LLAMA_1B = LLAMA_8B | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}


def llama(config: dict[str, Any], tied: bool) -> ModelShape:
    """The shape of a Llama by its config.json; a tied head is the embedding."""
    return shape_of(config, llama_tensors(config, tied))


def llama_tensors(config: dict[str, Any], tied: bool) -> Shapes:
    """Its tensors."""
    hidden, wide, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        root = f"model.layers.{layer}"
        for name, out in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            shapes[f"{root}.self_attn.{name}_proj.weight"] = (out, hidden)
        for name, shape in (("gate", (wide, hidden)), ("up", (wide, hidden)), ("down", (hidden, wide))):
            shapes[f"{root}.mlp.{name}_proj.weight"] = shape
        shapes[f"{root}.input_layernorm.weight"] = shapes[f"{root}.post_attention_layernorm.weight"] = (hidden,)
    return shapes if tied else shapes | {"lm_head.weight": (vocabulary, hidden)}


def known(pairs: int, gpus: int, aspects: Sequence[str] = ASPECTS, texts_per_shard: int | None = None) -> Known:
    """A run of so many pairs on so many GPUs; shards are those of the config where nothing else is said."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    settings["proxies"]["num_workers"] = min(8, gpus)
    settings["corpus"]["texts_per_shard"] = texts_per_shard or settings["corpus"]["texts_per_shard"]
    settings["alignment"] |= {
        "num_workers": gpus,
        "min_workers": None,
        "pairs_per_step": max(512, gpus * settings["alignment"]["batch_size"]),
    }
    prompt, response = TOKENS["prompt"], TOKENS["response"]
    whole = Lengths(np.array([prompt + response]))
    texts = Texts(whole, Lengths(np.array([prompt])), Lengths(np.array([response])), Lengths(np.array([prompt])), 0.0)
    config = RunConfig.model_validate(settings)
    assert config.proxies.base_model is not None and config.alignment is not None
    corpus = CorpusFacts(
        rows=pairs,
        pairs=pairs,
        prompts=pairs,
        texts=2 * pairs,
        aspects=dict.fromkeys(aspects, pairs / len(aspects)),
        rated=0,
        exact=(),
        read=0,
        input_bytes=0,
        prompt_bytes=prompt * BYTES_PER_TOKEN,
        response_bytes=response * BYTES_PER_TOKEN,
        conversational=False,
        bad={},
        sample=pa.table({}),
        source="simulated",
    )
    return Known(
        config=config,
        corpus=corpus,
        hardware=hardware_of(GPUS[GPU], gpus),
        proxies={"proxies.base_model": Model(config.proxies.base_model, llama(LLAMA_1B, tied=True), texts)},
        policy=Model(config.alignment.policy, llama(LLAMA_8B, tied=False)),
        policy_pairs=whole,
    )


def sweep() -> list[dict[str, Any]]:
    """A row for each number of pairs and of GPUs: seconds of each stage, None where it does not fit."""
    rows = []
    for pairs in PAIRS:
        for gpus in COUNTS:
            costs = stage_costs(known(pairs, gpus))
            seconds = {
                name: None if cost.seconds is None or cost.problems else round(cost.seconds, 1)
                for name, cost in costs.items()
            }
            problems = sorted({problem for cost in costs.values() for problem in cost.problems})
            hours = {name: None if seconds[name] is None else round(cost.gpu_hours, 2) for name, cost in costs.items()}
            rows.append({"pairs": pairs, "gpus": gpus, "seconds": seconds, "gpu_hours": hours, "problems": problems})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Hours against GPUs, a line for each corpus: of the selection with all that it needs, and of the alignment."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    parts = {"selecting": ("corpus", "proxies", "scores", "selection"), "DPO on 30% of the pairs": ("alignment",)}
    for panel, (title, stages) in zip(panels, parts.items(), strict=True):
        for pairs in PAIRS:
            mine = [row for row in rows if row["pairs"] == pairs]
            hours = [[row["seconds"][stage] for stage in stages] for row in mine]
            known_hours = [np.nan if None in part else sum(part) / 3600 for part in hours]
            panel.plot(COUNTS, known_hours, marker="o", label=f"{pairs:,} pairs")
        panel.set(title=title, xlabel=f"{GPU}s", xscale="log", yscale="log")
        panel.set_xscale("log", base=2)
        panel.set_xticks(COUNTS, [str(count) for count in COUNTS])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("hours (simulated)")
    panels[0].legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Simulate, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "sweep.json", help="JSON file, beside which the picture lies"
    )
    args = parser.parse_args()
    rows = sweep()
    config = {
        "run": f"configs/{CONFIG.name}, as many workers as GPUs",
        "gpu": GPU,
        "tokens": TOKENS,
        "aspects": len(ASPECTS),
        "assumptions": assumptions(known(PAIRS[0], COUNTS[-1])),
        "measured": "nothing; simulated by the arithmetic of pdray plan",
    }
    write_result(args.out, "sweep (simulated)", config, rows)
    draw(rows, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
