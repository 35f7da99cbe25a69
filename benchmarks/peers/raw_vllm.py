"""vLLM as its documentation shows it: one process, one call, token ids in, raw logits out.

    python -m benchmarks.peers.raw_vllm --texts T.parquet --model FOLDER --max-tokens 128 --rewards R.npy --out R.json

Imports nothing of pdray. ``ids`` of the parquet file are the token ids of each text.
"""

from __future__ import annotations

import os

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1"
)

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def main() -> None:
    """Load, score all texts in one call, write rewards and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--rewards", type=Path, required=True, help="gets (texts, labels) float32")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    start = time.perf_counter()
    import torch
    from vllm import LLM, PoolingParams
    from vllm.inputs import TokensPrompt

    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    texts = pq.read_table(args.texts)["ids"].to_pylist()
    llm = LLM(
        model=args.model,
        runner="pooling",
        dtype=args.dtype,
        max_model_len=args.max_tokens,
        kv_cache_memory_bytes=2**30,
        disable_log_stats=True,
    )
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in texts]
    begun = time.perf_counter()
    outputs = llm.classify(prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
    ended = time.perf_counter()
    np.save(args.rewards, np.asarray([output.outputs.probs for output in outputs], np.float32))
    args.out.write_text(json.dumps({"scoring_seconds": ended - begun, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
