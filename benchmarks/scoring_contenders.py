"""The contenders of ``benchmarks.scoring``: each scores the same texts its own way."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Outcome = tuple[dict[str, Any], np.ndarray]


@dataclass(frozen=True)
class Job:
    """What is scored.

    Attributes:
        scratch: holds ``texts.parquet`` and ``model``; free to write in.
        max_tokens: tokens per text, half of them for the prompt.
        shards: of the corpus.
        cores: CPUs of the machine.
    """

    scratch: Path
    max_tokens: int
    shards: int
    cores: int

    @property
    def model(self) -> str:
        return str(self.scratch / "model")

    def texts(self) -> pa.Table:
        return pq.read_table(self.scratch / "texts.parquet")

    def token_ids(self) -> list[list[int]]:
        from pdray.engines.encode import ModelEncoder
        from pdray.tokens import TokenRule

        encoder = ModelEncoder([Path(self.model)], TokenRule(self.max_tokens, self.max_tokens // 2))
        return encoder.encode(self.texts()).ids[0]


def text_pass(job: Job, engine: str) -> Outcome:
    """The pass of the scores stage."""
    from pdray.config import ClusterConfig, ScoresConfig
    from pdray.console import Console
    from pdray.engines.shards import TextPass, run_text_pass
    from pdray.runtime import ray_session
    from pdray.scoring.writer import RewardWriter
    from pdray.shards import ShardedFolder
    from pdray.storage import StoragePath
    from pdray.tokens import token_rule

    shutil.rmtree(job.scratch / "pass", ignore_errors=True)
    folder = StoragePath(str(job.scratch / "pass"))
    corpus, target = (ShardedFolder(folder / name, name, job.shards) for name in ("corpus", "scores"))
    texts = job.texts()
    for shard in range(job.shards):
        first, last = (len(texts) * bound // job.shards for bound in (shard, shard + 1))
        corpus.write(shard, {"texts": texts.slice(first, last - first)}, 0, {})
    scores = ScoresConfig(engine=engine, max_tokens=job.max_tokens)
    labels = [f"aspect {label}" for label in range(num_labels(job))]
    writer = RewardWriter(labels, list(range(len(labels))))
    start = time.perf_counter()
    with ray_session(ClusterConfig(num_cpus=job.cores)):
        from pdray.progress import Progress

        started = time.perf_counter() - start
        work = TextPass([StoragePath(job.model)], token_rule(scores), corpus, target, None, writer, scores, labels)
        result = run_text_pass(work, Progress(Console(io.StringIO(), io.StringIO()), "scores"), "scoring")
    table = pa.concat_tables([target.read("texts", shard) for shard in range(job.shards)])
    rewards = np.stack([table[f"reward.{label}"].to_numpy() for label in labels], axis=1)
    rates = result.rates
    return {
        "texts_per_second": rates["texts_per_second"],
        "tokens_per_second": rates["tokens_per_second"],
        "scoring_seconds": rates["seconds"],
        "num_actors": result.num_actors,
        "max_parity_error": result.parity and result.parity.max_error,
        "ray_start_seconds": started,
    }, rewards


def num_labels(job: Job) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(job.model, trust_remote_code=False).num_labels)


def raw_vllm(job: Job) -> Outcome:
    """vLLM as its documentation shows it, in one process, all token ids in one call."""
    import os

    token_ids = job.token_ids()
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(job.cores),
    }
    from vllm import LLM, PoolingParams
    from vllm.inputs import TokensPrompt

    model = LLM(
        model=job.model,
        runner="pooling",
        dtype="float32",
        max_model_len=job.max_tokens,
        kv_cache_memory_bytes=2**30,
        disable_log_stats=True,
    )
    options: dict[str, Any] = {"pooling_params": PoolingParams(use_activation=False), "use_tqdm": False}
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in token_ids]
    model.classify(prompts[:64], **options)  # what is compiled at the first call
    start = time.perf_counter()
    outputs = model.classify(prompts, **options)
    seconds = time.perf_counter() - start
    return rates(token_ids, seconds), np.array([output.outputs.probs for output in outputs], np.float32)


def script(job: Job) -> Outcome:
    """What a researcher writes: tokenise, sort by length, pad."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(job.cores)
    model = AutoModelForSequenceClassification.from_pretrained(
        job.model, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    start = time.perf_counter()
    texts = job.token_ids()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    rewards = np.empty((len(texts), model.config.num_labels), np.float32)
    for first in range(0, len(order), 32):
        chunk = order[first : first + 32]
        longest = max(len(texts[row]) for row in chunk)
        ids = torch.tensor([texts[row] + [model.config.pad_token_id] * (longest - len(texts[row])) for row in chunk])
        mask = torch.tensor([[1] * len(texts[row]) + [0] * (longest - len(texts[row])) for row in chunk])
        with torch.inference_mode():
            rewards[chunk] = model(input_ids=ids, attention_mask=mask).logits.numpy()
    return rates(texts, time.perf_counter() - start), rewards


def ray_data_llm(job: Job) -> Outcome:
    """Ray's batch inference on the same token ids."""
    from pdray.config import ClusterConfig
    from pdray.runtime import ray_session

    texts = job.token_ids()
    rewards = np.empty((len(texts), num_labels(job)), np.float32)
    start = time.perf_counter()
    with ray_session(ClusterConfig(num_cpus=job.cores)):
        import ray  # not before the session: Ray decides at import where it listens
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        started = time.perf_counter() - start
        config = vLLMEngineProcessorConfig(
            model_source=job.model,
            task_type="classify",
            engine_kwargs={"max_model_len": job.max_tokens, "dtype": "float32"},
            log_engine_metrics=False,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            batch_size=64,
            concurrency=1,
            placement_group_config={"bundles": [{"CPU": 1}]},
            runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"}},
        )
        processor = build_processor(
            config,
            preprocess=lambda row: {"tokenized_prompt": row["ids"], "pooling_params": {"use_activation": False}},
            postprocess=lambda row: {"index": row["index"], "rewards": np.ravel(row["embeddings"])},
        )
        items = [{"index": index, "ids": ids} for index, ids in enumerate(texts)]
        for row in processor(ray.data.from_items(items)).take_all():
            rewards[row["index"]] = row["rewards"]
    return {"ray_start_seconds": started}, rewards


def rates(texts: list[list[int]], seconds: float) -> dict[str, Any]:
    return {
        "texts_per_second": round(len(texts) / seconds, 3),
        "tokens_per_second": round(sum(map(len, texts)) / seconds, 1),
        "scoring_seconds": round(seconds, 3),
    }


CONTENDERS: dict[str, Callable[[Job], Outcome]] = {
    "pass vllm": partial(text_pass, engine="vllm"),
    "raw vllm": raw_vllm,
    "pass transformers": partial(text_pass, engine="transformers"),
    "script": script,
    "ray.data.llm": ray_data_llm,
}
