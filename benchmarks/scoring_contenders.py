"""The contenders of ``benchmarks.scoring``: each scores the same pairs its own way."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SIDES = ("chosen", "rejected")
Outcome = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What is scored.

    Attributes:
        scratch: holds ``corpus/pairs``; free to write in.
        proxies: aspect -> reward model folder.
        max_tokens: tokens per text.
        batch_size: pairs per engine call.
        cores: CPUs of the machine.
    """

    scratch: Path
    proxies: dict[str, Path]
    max_tokens: int
    batch_size: int
    cores: int

    def pairs(self) -> pa.Table:
        return pq.read_table(self.scratch / "corpus" / "pairs")


def stage(job: Job, engine: str, num_actors: int, cpus_per_actor: int) -> Outcome:
    """The scores stage of pdray."""
    from pdray.config import ClusterConfig, ScoresConfig
    from pdray.console import Console
    from pdray.progress import Progress
    from pdray.runtime import ray_session
    from pdray.scoring.stage import run
    from pdray.stages import StageContext

    scores = ScoresConfig(
        engine=engine,
        max_tokens=job.max_tokens,
        batch_size=job.batch_size,
        num_actors=num_actors,
        cpus_per_actor=cpus_per_actor,
    )
    folder = job.scratch / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifests = {
        "corpus": {"rows_out": job.pairs().num_rows},
        "proxies": {"metrics": {"aspects": {aspect: {"path": str(path)} for aspect, path in job.proxies.items()}}},
    }
    progress = Progress(Console(io.StringIO(), io.StringIO()), "scores")
    config: Any = SimpleNamespace(scores=scores)
    start = time.perf_counter()
    with ray_session(ClusterConfig(num_cpus=job.cores)):
        started = time.perf_counter() - start
        result = run(StageContext(config, folder, {"corpus": job.scratch / "corpus"}, manifests, progress))
    kept = ("pairs_per_second", "tokens_per_second", "scoring_seconds", "num_actors", "max_parity_error")
    table = pq.read_table(folder / "scores")
    names = [name for name in table.column_names if name == "pair_id" or name.startswith("reward_")]
    rewards = {name: table[name] for name in names}
    return {name: result.metrics[name] for name in kept} | {"ray_start_seconds": started}, rewards


def raw_vllm(job: Job) -> Outcome:
    """vLLM as its documentation shows it, in one process, on token ids."""
    from pdray.scoring.actor import score_table
    from pdray.scoring.encode import PairTokenizer
    from pdray.scoring.engine import EngineOptions, load_engine
    from pdray.scoring.proxies import find_proxies

    found = find_proxies({aspect: {"path": str(path)} for aspect, path in job.proxies.items()}, job.max_tokens)
    encoded = PairTokenizer(found.tokenizers, job.max_tokens, "end")(job.pairs())
    options = EngineOptions("vllm", "float32", job.max_tokens, threads=job.cores)
    engines = [(proxy, load_engine(proxy.path, options)) for proxy in found.proxies]
    start = time.perf_counter()
    batches = [encoded.slice(row, job.batch_size) for row in range(0, encoded.num_rows, job.batch_size)]
    scored, _, tokens = zip(*(score_table(batch, engines, found.aspects) for batch in batches), strict=True)
    seconds = time.perf_counter() - start
    table = pa.concat_tables(scored)
    names = [name for name in table.column_names if name == "pair_id" or name.startswith("reward_")]
    return rates(encoded.num_rows, sum(tokens), seconds), {name: table[name] for name in names}


def script(job: Job) -> Outcome:
    """What a researcher writes: sort by length, pad, one model after another."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(job.cores)
    pairs = job.pairs()
    rewards = empty_rewards(job, pairs)
    num_tokens, seconds = 0, 0.0
    for aspect, folder in job.proxies.items():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        encoder = pair_encoder(job, folder)
        start = time.perf_counter()
        rows = [row for row, own in enumerate(pairs["aspect"].to_pylist()) if own != aspect]
        texts = encode(encoder, pairs.take(rows))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        values = np.empty(len(texts), np.float32)
        for first in range(0, len(order), 32):
            chunk = order[first : first + 32]
            longest = max(len(texts[i]) for i in chunk)
            ids = torch.tensor([texts[i] + [model.config.pad_token_id] * (longest - len(texts[i])) for i in chunk])
            mask = torch.tensor([[1] * len(texts[i]) + [0] * (longest - len(texts[i])) for i in chunk])
            with torch.inference_mode():
                values[chunk] = model(input_ids=ids, attention_mask=mask).logits[:, 0].numpy()
        fill(rewards, aspect, rows, values)
        seconds += time.perf_counter() - start
        num_tokens += sum(map(len, texts))
    return rates(pairs.num_rows, num_tokens, seconds), rewards


def ray_data_llm(job: Job) -> Outcome:
    """Ray's batch inference on the same token ids; starts one set of engine processes per proxy."""
    from pdray.config import ClusterConfig
    from pdray.runtime import ray_session

    pairs = job.pairs()
    rewards = empty_rewards(job, pairs)
    start = time.perf_counter()
    with ray_session(ClusterConfig(num_cpus=job.cores)):
        import ray  # not before the session: Ray decides at import where it listens
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        started = time.perf_counter() - start
        for aspect, folder in job.proxies.items():
            rows = [row for row, own in enumerate(pairs["aspect"].to_pylist()) if own != aspect]
            texts = encode(pair_encoder(job, folder), pairs.take(rows))
            config = vLLMEngineProcessorConfig(
                model_source=str(folder),
                task_type="classify",
                engine_kwargs={"max_model_len": job.max_tokens, "dtype": "float32", "enforce_eager": True},
                log_engine_metrics=False,
                chat_template_stage=False,
                tokenize_stage=False,
                detokenize_stage=False,
                batch_size=job.batch_size,
                concurrency=1,
                placement_group_config={"bundles": [{"CPU": 1}]},
                runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1"}},
            )
            processor = build_processor(
                config,
                preprocess=lambda row: {"tokenized_prompt": row["ids"], "pooling_params": {"use_activation": False}},
                postprocess=lambda row: {"index": row["index"], "reward": float(np.ravel(row["embeddings"])[0])},
            )
            items = [{"index": index, "ids": ids} for index, ids in enumerate(texts)]
            found = processor(ray.data.from_items(items)).take_all()
            values = np.empty(len(texts), np.float32)
            for one in found:
                values[one["index"]] = one["reward"]
            fill(rewards, aspect, rows, values)
    return {"ray_start_seconds": started}, rewards


def pair_encoder(job: Job, folder: Path) -> Any:
    from transformers import AutoTokenizer

    from pdray.tokens import PairEncoder

    return PairEncoder(AutoTokenizer.from_pretrained(folder), job.max_tokens)


def encode(encoder: Any, pairs: pa.Table) -> list[list[int]]:
    """Token ids: chosen and rejected of each pair side by side."""
    encoded = encoder.encode(*(pairs[name].to_pylist() for name in ("prompt", *SIDES)))
    return [ids for pair in zip(encoded.chosen_ids, encoded.rejected_ids, strict=True) for ids in pair]


def empty_rewards(job: Job, pairs: pa.Table) -> dict[str, Any]:
    names = [f"reward_{side}.{aspect}" for aspect in job.proxies for side in SIDES]
    return {"pair_id": pairs["pair_id"]} | {name: np.full(pairs.num_rows, np.nan, np.float32) for name in names}


def fill(rewards: dict[str, Any], aspect: str, rows: list[int], values: np.ndarray) -> None:
    for offset, side in enumerate(SIDES):
        rewards[f"reward_{side}.{aspect}"][rows] = values[offset::2]


def rates(num_pairs: int, num_tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "pairs_per_second": round(num_pairs / seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 1),
        "scoring_seconds": round(seconds, 3),
    }


CONTENDERS: dict[str, Callable[[Job], Outcome]] = {
    "stage vllm, 2 actors x 1 CPU": partial(stage, engine="vllm", num_actors=2, cpus_per_actor=1),
    "stage vllm, 1 actor x 2 CPUs": partial(stage, engine="vllm", num_actors=1, cpus_per_actor=2),
    "stage transformers, 2 actors": partial(stage, engine="transformers", num_actors=2, cpus_per_actor=1),
    "raw vllm": raw_vllm,
    "script": script,
    "ray.data.llm": ray_data_llm,
}
