"""Ray Data's own processor for vLLM, as its documentation shows it: both responses of every pair, token ids in.

    python -m benchmarks.peers.ray_data_llm --texts T.parquet --pairs P.parquet --model FOLDER --max-tokens 128 \
        --rewards R.npy --out R.json

Imports nothing of pdray. The model has a label for every aspect, which is more than the processor's users would have.
``scoring_seconds`` run from the first request to the last answer; the start of Ray is counted in neither figure.
"""

from __future__ import annotations

import os

os.environ.update(
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_NO_USAGE_STATS="1",
    HF_HUB_OFFLINE="1",
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
)

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


def main() -> None:
    """Load, score the texts of all pairs, write rewards and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="parquet with chosen and rejected: text rows")
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--rewards", type=Path, required=True, help="gets (texts, labels) float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    import ray
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    texts, pairs = pq.read_table(args.texts)["ids"].to_pylist(), pq.read_table(args.pairs)
    rows = np.concatenate([pairs["chosen"].to_numpy(), pairs["rejected"].to_numpy()]).tolist()
    ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    start = time.perf_counter()
    config = vLLMEngineProcessorConfig(
        model_source=args.model,
        task_type="classify",
        batch_size=64,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
        engine_kwargs={
            "dtype": "float32",
            "max_model_len": args.max_tokens,
            "kv_cache_memory_bytes": 2**30,
            "disable_log_stats": True,
        },
    )
    processor = build_processor(config, preprocess=_request, postprocess=_answer)
    requests = ray.data.from_items([{"row": row, "ids": texts[row]} for row in rows], override_num_blocks=8)
    answers = processor(requests).take_all()
    figures = {
        "scoring_seconds": max(a["ended"] for a in answers) - min(a["begun"] for a in answers),
        "text_passes": len(answers),
        "seconds": time.perf_counter() - start,
    }
    rewards = np.full((len(texts), len(answers[0]["reward"])), np.nan, np.float32)
    for answer in answers:
        rewards[answer["row"]] = answer["reward"]
    np.save(args.rewards, rewards)
    args.out.write_text(json.dumps(figures))


def _request(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": row["row"],
        "prompt": "",
        "tokenized_prompt": row["ids"],
        "pooling_params": {"use_activation": False},
    }


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    ended = time.time()
    return {
        "row": row["row"],
        "reward": row["embeddings"],
        "begun": ended - row["time_taken_llm"],
        "ended": ended,
    }


if __name__ == "__main__":
    main()
