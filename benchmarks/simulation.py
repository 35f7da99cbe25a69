"""A cluster of tens of FAKE GPUs, hundreds of shards and drawn failures: what the driver spends, and the same rewards.

    python -m benchmarks.simulation --out benchmarks/results/simulation-2core.json      # ten minutes and more

Ray is real, and so is all of pdray's scoring: the pool, its actors, rounds, markers, files. GPUs are a number that Ray
is told, engine and tokenizer those of :mod:`benchmarks.fakes`. ``driver`` is the process that runs the pass; its CPU
seconds are those of the pass alone, its memory the peak of its unique set size. ``busy`` is the share of the pass in
which an engine had work. ``hand_over_seconds`` go by from the last shard until the first worker of a group that wants
every GPU, as a training's does; ``engines_left`` counts the engines whose processes are not gone by then, and
``engines_gone_seconds`` go by until none is there. In the last row calls die, raise and are slow at the stated rates,
and the files have to be those of the row before, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import write_result
from benchmarks.fakes import FakeEngine, FakeScorer, Fates, engines_left, happened, no_sample, write_model
from benchmarks.harness import in_fresh_process
from pdray.config import ClusterConfig, ScoresConfig
from pdray.schema import TEXTS
from pdray.shards import MARKERS, ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import text_tables

ASPECTS = ["helpfulness", "honesty", "instruction_following", "truthfulness"]
TEXTS_PER_SHARD = 64
SECONDS_PER_TEXT = 0.04
FAILURES = {"dies": 0.03, "raises": 0.03, "slow": 0.02}
SEED = 7
SAMPLE_SECONDS = 0.5
PARTS = (40, 500)  # map tasks and partitions of the shuffle that is measured


def main() -> None:
    """One fresh process for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--gpus", type=int, default=24, help="fake ones, with an actor each")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--failures", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parts", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.parts:
        with fake_gpus(2, max_direct_call_object_size=0):
            args.out.write_text(json.dumps({"part_bytes": part_bytes()}))
        return
    if args.one:
        row = simulate(args.one, args.shards[0], args.gpus, FAILURES if args.failures else {})
        args.out.write_text(json.dumps(row))
        return
    rows = []
    for shards, words in [*((shards, []) for shards in args.shards), (args.shards[-1], ["--failures"])]:
        with tempfile.TemporaryDirectory() as scratch:
            words = ["--one", scratch, "--shards", str(shards), "--gpus", str(args.gpus), *words]
            rows.append(in_fresh_process("benchmarks.simulation", words, Path(scratch) / "run"))
        print(json.dumps(rows[-1]), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        parts = in_fresh_process("benchmarks.simulation", ["--parts"], Path(scratch) / "run")
    assert rows[-1]["rewards"] == rows[-2]["rewards"], "failures changed the rewards"
    config = {"texts_per_shard": TEXTS_PER_SHARD, "seconds_per_text": SECONDS_PER_TEXT, "failures": FAILURES}
    write_result(args.out, "simulation", config | {"engine": "fake", "gpus": "fake", "seed": SEED} | parts, rows)


def simulate(scratch: Path, shards: int, gpus: int, failures: dict[str, float]) -> dict[str, Any]:
    """Score a corpus of so many shards on so many fake GPUs; a row of the result."""
    from pdray.runtime import present_ray

    folder = scratch / "simulation"
    corpus = make_corpus(folder, shards)
    write_model(folder / "models" / "fake", Fates(SEED, SECONDS_PER_TEXT, **failures), len(ASPECTS))
    with fake_gpus(gpus), present_ray(ClusterConfig()):
        row = score(folder, corpus, gpus)
        row |= hand_over(folder, gpus)
    tries = happened(folder / "models" / "fake")
    return {"shards": shards, "gpus": gpus, "failures": bool(failures), **row, "calls": dict(sorted(tries.items()))}


def make_corpus(folder: Path, shards: int) -> ShardedFolder:
    """Shards of short texts, two responses to each prompt."""
    corpus = ShardedFolder(StoragePath(str(folder / "corpus")), "corpus", shards)
    for shard in range(shards):
        numbers = range(TEXTS_PER_SHARD)
        prompts = [f"prompt {shard}-{number // 2:02}" for number in numbers]
        responses = [f"response {number % 2}" for number in numbers]
        corpus.write(shard, text_tables(prompts, responses, False), 0, {})
    return corpus


@contextmanager
def fake_gpus(count: int, **system: int) -> Iterator[None]:
    """A Ray of this machine that is told of so many GPUs, and of a CPU for each; ``system`` are settings of its own."""
    from pdray.runtime import keep_on_loopback, private_folder
    from pdray.runtime.session import init_ray

    keep_on_loopback()
    import ray

    with private_folder() as session:
        where: dict[str, Any] = {"address": "local", "num_cpus": count + 2, "num_gpus": count, "_temp_dir": session}
        store = {"object_store_memory": 200 * 2**20, "include_dashboard": False, "log_to_driver": False}
        init_ray(where | store | ({"_system_config": system} if system else {}))
        try:
            yield
        finally:
            ray.shutdown()


def score(folder: Path, corpus: ShardedFolder, gpus: int) -> dict[str, Any]:
    """The pass with its costs."""
    from pdray.console import Console
    from pdray.engines import pool
    from pdray.engines.shards import TextPass, run_text_pass
    from pdray.progress import Progress
    from pdray.scoring.writer import RewardWriter
    from pdray.tokens import token_rule

    config = ScoresConfig(engine="transformers", gpus_per_actor=1, num_actors=gpus)
    target = ShardedFolder(StoragePath(str(folder / "scores")), "scores", corpus.num_shards)
    text_pass = TextPass(
        models=[StoragePath(str(folder / "models" / "fake"))],
        rule=token_rule(config),
        corpus=corpus,
        target=target,
        rows=None,
        write=RewardWriter(ASPECTS, list(range(len(ASPECTS)))),
        config=config,
        load=FakeEngine,
    )
    pool.ShardScorer = FakeScorer  # type: ignore[misc]
    pool.take_sample = no_sample
    told = io.StringIO()
    with watching() as spent:
        result = run_text_pass(text_pass, Progress(Console(told, told), "scores"), "scoring")
    engines = sum(sum(marker.facts["model_seconds"]) for marker in result.markers.values())
    cpu = spent["driver_cpu_seconds"]
    return spent | {
        "driver_ms_per_shard": round(1000 * cpu / corpus.num_shards, 1),
        "busy": round(engines / result.seconds / gpus, 3),
        "failed_texts": len(result.failed),
        "rounds_told": told.getvalue().count("are tried again"),
        "rewards": digest_of(target),
        **verification(target),
    }


@contextmanager
def watching() -> Iterator[dict[str, float]]:
    """Fills in seconds of the block, and what this process and Ray's services spend on it."""
    found: dict[str, float] = {}
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            found["driver_mib"] = max(found["driver_mib"], _mib())

    found["driver_mib"] = found["driver_mib_before"] = _mib()
    before, services, start = _cpu([psutil.Process()]), _cpu(_services()), time.monotonic()
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
    found["seconds"] = round(time.monotonic() - start, 1)
    found["driver_cpu_seconds"] = round(_cpu([psutil.Process()]) - before, 2)
    found["services_cpu_seconds"] = round(_cpu(_services()) - services, 2)


def _services() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name() in ("raylet", "gcs_server")]


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def _mib() -> float:
    return round(psutil.Process().memory_full_info().uss / 2**20, 1)


def hand_over(folder: Path, gpus: int) -> dict[str, float]:
    """Seconds from the last shard until a worker group like a training's has all GPUs, and engines left by then."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    last = max(path.stat().st_mtime for path in (folder / "scores" / MARKERS).glob("*.json"))
    group = placement_group([{"CPU": 1, "GPU": 1}] * gpus, strategy="PACK")
    worker = ray.remote(num_cpus=1, num_gpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group))(_now)
    began = ray.get(worker.remote())
    left = engines_left(folder / "models" / "fake")
    while engines_left(folder / "models" / "fake") and time.time() < began + SAMPLE_SECONDS * 100:
        time.sleep(SAMPLE_SECONDS / 10)
    gone = round(time.time() - last, 2)
    ray.util.remove_placement_group(group)
    return {"hand_over_seconds": round(began - last, 2), "engines_left": left, "engines_gone_seconds": gone}


def digest_of(target: ShardedFolder) -> str:
    """sha256 over the bytes of all rewards."""
    hasher = hashlib.sha256()
    for shard in range(target.num_shards):
        hasher.update(target.table(TEXTS, shard).read_bytes())
    return hasher.hexdigest()


def verification(target: ShardedFolder) -> dict[str, float]:
    """Milliseconds to verify a finished shard on this disk, and bytes that its marker takes in the driver."""
    start = time.monotonic()
    target.done()
    seconds = time.monotonic() - start
    tracemalloc.start()
    markers = target.done()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "verify_ms_per_shard": round(1000 * seconds / len(markers), 2),
        "marker_bytes": round(held / len(markers)),
    }


def part_bytes() -> float:
    """What each part of a shuffle, of so many map tasks and partitions, takes in the driver, its data not counted."""
    from ray.data import DataContext

    DataContext.get_current().shuffle_input_batch_bytes = 0  # a map task for each block
    _shuffle(2, 4)  # what is imported and started once
    before = _mib()
    with watching() as spent:
        _shuffle(*PARTS)
    return round((spent["driver_mib"] - before) * 2**20 / (PARTS[0] * PARTS[1]))


def _shuffle(blocks: int, partitions: int) -> None:
    import ray.data

    numbers = ray.data.range(100 * partitions * blocks, override_num_blocks=blocks)
    numbers.repartition(partitions, keys=["id"]).materialize()


def _now() -> float:
    return time.time()


if __name__ == "__main__":
    main()
