"""A billion pairs on 64 GPUs, on paper: tasks, objects, bytes and seconds of every stage, and what breaks first.

    python -m benchmarks.billion                    # writes results/billion.json, in a second
    python -m benchmarks.billion --pairs 100000000 --gpus 16 --aspects 8 --texts-per-shard 32768 --out x.json

Nothing is run. Counts follow from the code (shards by ``pdray.corpus.plan.pack``, blocks and partitions by Ray Data's
sizes); service times are those of ``results/*.json``, measured on two cores; GPUs and bandwidths are assumed. Each row
says what its seconds rest on. Parts of a stage are added up as if nothing overlapped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import write_result
from benchmarks.paper import (
    BLOCK_BYTES,
    CORPUS_FILES,
    DISK,
    DRIVER_BYTES,
    PASSES,
    REQUEST,
    SCORES_FILES,
    STORAGE,
    STORE_BYTES,
    Run,
    paper,
)
from benchmarks.sweep import ASPECTS, TOKENS
from benchmarks.tables import RESULTS, Row
from pdray.corpus.exchange import partition_bytes
from pdray.plan.hardware import GIB, NETWORK_GB
from pdray.plan.stages import A_ROW, PACKED, kept_pairs
from pdray.runtime.tasks import TASKS_PER_CPU
from pdray.schema import INPUT
from pdray.selection.radix import DIGITS
from pdray.shards import VERIFY_THREADS


def corpus(run: Run) -> Row:
    """Check, shuffle by prompt, write."""
    facts, cost = run.known.corpus, run.costs["corpus"]
    blocks, maps, parts = math.ceil(run.bytes / BLOCK_BYTES), run.map_tasks, run.partitions
    spilled = max(0.0, cost.store_bytes - run.nodes * STORE_BYTES)
    read = PACKED * run.bytes
    network = run.bytes * (1 - 1 / run.nodes)
    return {
        "tasks": 4 * blocks + maps + parts,
        "objects": 4 * blocks + maps * (parts + 1) + parts,
        "store": cost.store_bytes,
        "read": read,
        "written": cost.disk_bytes,
        "network": network,
        "seconds_of": {
            "rows": facts.rows * A_ROW / run.cpus,
            "network": network / (run.known.hardware.gpus * NETWORK_GB * 1e9),
            "spilling": 2 * spilled / (run.nodes * DISK),
            "storage": run.storage(read + cost.disk_bytes),
            "verifying": run.requests(run.shards * CORPUS_FILES),
        },
        "driver": maps * parts * run.measured.part + run.inlined + run.shards * run.measured.marker,
        "because": [
            f"a row costs {A_ROW * 1e6:.0f} µs of a core (assumed, as in pdray plan)",
            f"{spilled / 1e12:.1f} TB do not fit the object stores, and go to disk and back",
            f"a shuffle of {maps:,} map tasks and {parts:,} partitions makes an object for each pair of them",
        ],
    }


def proxies(run: Run) -> Row:
    """A training that does not grow with the corpus."""
    cost = run.costs["proxies"]
    assert cost.seconds is not None
    return {
        "tasks": int(cost.gpus),
        "objects": 0,
        "store": 0.0,
        "read": 0.0,
        "written": cost.disk_bytes,
        "network": 0.0,
        "seconds_of": {"GPUs": cost.seconds},
        "driver": run.shards * run.measured.marker,
        "because": ["training reaches 35% of the data sheet (assumed)", cost.work],
    }


def scores(run: Run) -> Row:
    """Every text through the engine, a shard a task."""
    cost, read = run.costs["scores"], PACKED * run.known.corpus.text_bytes
    assert cost.seconds is not None
    return {
        "tasks": run.shards,
        "objects": 2 * run.shards,
        "store": 0.0,
        "read": read,
        "written": cost.disk_bytes,
        "network": 0.0,
        "seconds_of": {
            "GPUs": cost.seconds,
            "verifying": run.requests(run.shards * (CORPUS_FILES + SCORES_FILES)),
        },
        "driver": 2 * run.shards * run.measured.marker,
        "driver_cpu": run.shards * run.measured.driver,
        "because": [
            f"scoring reaches 45% of the data sheet (assumed): {cost.work}",
            f"the driver spends {run.measured.driver * 1000:.0f} ms of a core on a shard (measured), while GPUs work",
        ],
    }


def selection(run: Run) -> Row:
    """Passes over narrow columns, then the text of what is kept."""
    facts, cost, measured = run.known.corpus, run.costs["selection"], run.measured
    narrow = facts.pairs * 8 + facts.texts * (4 * run.known.num_aspects + 4)
    tasks = int(TASKS_PER_CPU * run.cpus)
    counts = tasks * DIGITS * 8.0 * run.known.num_aspects
    read = PASSES * narrow + PACKED * facts.text_bytes
    each = measured.pair + measured.text_byte * facts.pair_bytes
    return {
        "tasks": PASSES * tasks + run.shards,
        "objects": PASSES * tasks + run.shards,
        "store": counts,
        "read": read,
        "written": cost.disk_bytes,
        "network": counts,
        "seconds_of": {
            "pairs": facts.pairs * each / run.cpus,
            "storage": run.storage(read + cost.disk_bytes),
            "requests of tasks": (2 * PASSES + CORPUS_FILES) * run.shards * REQUEST / run.cpus,
            "verifying": run.requests(run.shards * (2 + CORPUS_FILES)),
        },
        "driver": 3 * run.shards * measured.marker,
        "because": [
            f"a pair of {facts.pair_bytes:,.0f} bytes costs {each * 1e6:.1f} µs of a core (measured with 24 and 1,900)",
            f"{PASSES} passes, without ranks",
        ],
    }


def alignment(run: Run) -> Row:
    """Tokens of the kept pairs, then DPO."""
    cost, kept = run.costs["alignment"], kept_pairs(run.known)
    assert cost.seconds is not None
    tokens = kept * (TOKENS["prompt"] + 2 * TOKENS["response"])
    read = PACKED * kept * run.known.corpus.pair_bytes
    return {
        "tasks": run.shards + int(cost.gpus) + 1,
        "objects": run.shards,
        "store": 0.0,
        "read": read + 4.0 * tokens,
        "written": 4.0 * tokens + cost.disk_bytes,
        "network": 0.0,
        "seconds_of": {"GPUs": cost.seconds, "tokenising": tokens * run.measured.token / run.cpus},
        "driver": run.shards * run.measured.marker,
        "because": [
            f"training reaches 35% of the data sheet (assumed): {cost.work}; what workers send each other is in it",
            f"a token costs {run.measured.token * 1e6:.0f} µs of a core to tokenise and write (measured)",
        ],
    }


STAGES: dict[str, Callable[[Run], Row]] = {
    "corpus": corpus,
    "proxies": proxies,
    "scores": scores,
    "selection": selection,
    "alignment": alignment,
}


def stage_row(run: Run, name: str) -> Row:
    """A stage's row, with the sum of its seconds and what most of them are."""
    row = STAGES[name](run)
    parts = {part: round(seconds, 1) for part, seconds in row["seconds_of"].items()}
    found = {"stage": name, **row, "seconds_of": parts, "seconds": round(sum(parts.values()), 1)}
    return found | {"mostly": max(parts, key=lambda part: parts[part])}


def limits(run: Run) -> list[Row]:
    """What grows with the corpus in one place, how much of its room it takes, and the pairs that fill it."""
    pairs, kept, measured = run.known.corpus.pairs, kept_pairs(run.known), run.measured
    shuffle = run.map_tasks * run.partitions * measured.part + run.inlined
    row_bytes = sum(field.type.bit_width // 8 for field in INPUT)
    host = run.known.hardware.host_gib * GIB
    rows = [
        ("driver: what it keeps of the shuffle's parts, and the small ones themselves", shuffle, DRIVER_BYTES, 1),
        (
            "one task of the shuffle: what it brings together, three times",
            3 * partition_bytes(int(run.bytes)),
            host * run.nodes / run.cpus,
            0.5,
        ),
        (
            "object stores: checked rows and their shuffle; the rest goes to disk",
            2 * run.bytes,
            run.nodes * STORE_BYTES,
            1,
        ),
        ("driver: markers of corpus, scores and selection", 3 * run.shards * measured.marker, DRIVER_BYTES, 1),
        ("one task: the order of the training, and its sorted copy", 3 * kept * row_bytes, host, 1),
    ]
    return [
        {
            "what": what,
            "bytes": needs,
            "room": room,
            "share": needs / room,
            "full_at": pairs * (room / needs) ** (1 / power),
        }
        for what, needs, room, power in rows
    ]


def main() -> None:
    """Write the result and print it with its assumptions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10**9)
    parser.add_argument("--gpus", type=int, default=64, help="H100s, eight a node")
    parser.add_argument("--aspects", type=int, default=len(ASPECTS), help="κ")
    parser.add_argument("--texts-per-shard", type=int, help="default: 16,384")
    parser.add_argument("--out", type=Path, default=RESULTS / "billion.json")
    args = parser.parse_args()
    run = paper(args.pairs, args.gpus, args.aspects, args.texts_per_shard)
    rows = [stage_row(run, name) for name in STAGES]
    for row in rows:
        print(
            f"{row['stage']}: {row['seconds'] / 3600:,.2f} h, mostly {row['mostly']}\n  " + "\n  ".join(row["because"])
        )
    config = {
        "pairs": args.pairs,
        "gpus": f"{args.gpus}xH100",
        "aspects": args.aspects,
        "tokens": TOKENS,
        "shards": run.shards,
        "assumed of a node, bytes/s": {"disk": DISK, "storage": STORAGE, "network of a GPU": NETWORK_GB * 1e9},
        "assumed of object storage": f"{REQUEST} s a request, {VERIFY_THREADS} at once in the driver",
        "measured of a core": vars(run.measured),
    }
    write_result(args.out, "billion (on paper)", config, rows + limits(run))


if __name__ == "__main__":
    main()
