"""The paper's comparison: every strategy under one number of training steps.

    python -m benchmarks.method --small --out method-small.json    # one level, one seed, four strategies: minutes
    python -m benchmarks.method --out benchmarks/results/method-2core.json
    python -m benchmarks.method --strategies raf selective --levels 0.2 --out benchmarks/results/method-2core.json
    python -m benchmarks.method --data DIR --base DIR --out benchmarks/results/method-data-2core.json

It is made on a world whose true rewards are known, or on the real text of ``--data``, with the encoder of ``--base``
for proxies, which ``pdray models minilm`` writes.

A run is a level of conflict, or a data set, a seed, a strategy and a setting. Each is kept in a JSON file under
``--folder``, so the command goes on where it was stopped; another size, world or file is another folder there.
``--out`` gets a row for each strategy, the file beside it, whose name has ``-shape`` more, a row for each of the
paper's lines; both are written anew after every run. With ``--strategies`` or ``--levels`` only some are run, and rows
of the others stay that these files have.

What is the product's: proxies (all weights, one for each aspect; on real text heads), keys and cut of the strategies,
trainers of DPO and DFPO, accuracy on held-out pairs. See the modules for what stands in for Ray and DeepSpeed, which
compute the same. A training is one process on one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.method.data import FILES, PARTS, DataLab, DataSize
from benchmarks.method.lab import PD_NL, Lab, Setting, Size
from benchmarks.method.report import rows_of, verdicts
from benchmarks.method.shape import Claim, claims, claims_of_data
from benchmarks.method.world import WorldLab, WorldSize
from pdray.demo import world
from pdray.hashing import digest
from pdray.identity import file_identity, model_identity
from pdray.selection.strategies import BUILT_IN

# What most of the paper's lines are about comes first.
FIRST = ("sft", "pd", "random", "all", "dfpo", "pd_high", "pd_mid")
THEN = ("pd_ratings", "mean_rating", "longest")
RIVALS = (PD_NL, *(name for name in BUILT_IN if name not in FIRST + THEN))
NO_REMEDY = Setting(length_penalty=0.0, temperature=None)
SWEEP_LEVEL = 0.2
SWEEP = {
    "γ = 1.0": Setting(gamma=1.0),
    "γ = 0.7": Setting(gamma=0.7),
    "λ = 0.1": Setting(budget=0.1),
    "λ = 0.5": Setting(budget=0.5),
    "ρ = 0.0": Setting(length_penalty=0.0),
    "proxy size = 32": Setting(proxy_size=32),
    "p_r = 0.5": Setting(share=0.5),
    "ρ = 0.03": Setting(length_penalty=0.03),
    "τ = 0.3": Setting(temperature=0.3),
    "proxy size = 128": Setting(proxy_size=128),
}


@dataclass(frozen=True)
class Plan:
    """What is run."""

    size: Size = field(default_factory=WorldSize)
    levels: tuple[float | str, ...] = (0.1, 0.2, 0.3)
    seeds: tuple[int, ...] = (0, 1, 2)
    strategies: tuple[tuple[str, ...], ...] = (FIRST, THEN, RIVALS)
    default: Setting = field(default_factory=Setting)
    sweep: dict[str, Setting] = field(default_factory=lambda: SWEEP)

    def runs(self) -> Iterator[tuple[int, float | str, str, str, Setting]]:
        """Seed, level, strategy, name and values of the setting; all strategies of all seeds before the sweep."""
        for some in self.strategies:
            for seed in self.seeds:
                for level in self.levels:
                    for strategy in some:
                        yield seed, level, strategy, "", NO_REMEDY if strategy == PD_NL else self.default
        for seed in self.seeds:
            yield from ((seed, SWEEP_LEVEL, "pd", name, setting) for name, setting in self.sweep.items())


SMALL = Plan(WorldSize(pairs=800, held_out=200), (SWEEP_LEVEL,), (0,), (FIRST[:4],), sweep={})
DATA = Plan(DataSize(), tuple(FILES), (0, 1, 2), (FIRST,), Setting(length_penalty=0.001), {})
DATA_SMALL = replace(DATA, size=DataSize(pairs=320, held_out=200), seeds=(0,), strategies=(FIRST[:4],))


def main() -> None:
    """Run what is missing, and write the results after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one level, one seed, four strategies, fewer pairs")
    parser.add_argument("--data", type=Path, help=f"folder of {' and '.join(FILES.values())}")
    parser.add_argument("--base", type=Path, help="with --data: model folder of the encoder that proxies are heads on")
    parser.add_argument("--strategies", nargs="+", help="run these alone, under the default settings")
    parser.add_argument("--levels", nargs="+", type=float, help="run these shares of conflicts alone")
    parser.add_argument("--folder", type=Path, default=Path("runs/method"), help="where runs are kept")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    if (args.data is None) != (args.base is None):
        parser.error("--data and --base go together")
    quiet()
    plan = plan_of(args)
    config = config_of(plan) | ({} if args.data is None else files_of(args.data, args.base))
    folder = args.folder / digest(json.dumps(config))[:8]
    labs: dict[tuple[float | str, int], Lab] = {}
    found: list[dict[str, Any]] = []
    starts: dict[str, Any] = {}
    rows, lines, known = earlier(args, config)
    for seed, level, strategy, name, setting in plan.runs():
        if (args.strategies and (name or strategy not in args.strategies)) or level not in (args.levels or [level]):
            continue
        if (level, seed) not in labs:
            labs = {(level, seed): make_lab(args, folder, plan.size, level, seed)}  # one corpus at a time is in memory
        lab = labs[level, seed]
        starts[f"{level}, seed {seed}"] = lab.start(plan.default)
        found.append(lab.run(strategy, name, setting))
        told = {key: value for key, value in found[-1].items() if not isinstance(value, list)}
        means = {key: found[-1][key] for key in ("right", "won") if key in found[-1]}
        print(told | {key: round(sum(values) / len(values), 4) for key, values in means.items()}, flush=True)
        write(args.out, plan, config | {"starts": known | starts}, found, rows, lines)


def plan_of(args: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    if args.data is not None:
        return DATA_SMALL if args.small else DATA
    return SMALL if args.small else Plan()


def make_lab(args: argparse.Namespace, folder: Path, size: Size, level: float | str, seed: int) -> Lab:
    """A corpus of the world or of the data."""
    if isinstance(size, DataSize):
        return DataLab(folder, size, str(level), seed, args.data, args.base)
    assert isinstance(size, WorldSize) and not isinstance(level, str)
    return WorldLab(folder, size, level, seed)


def earlier(
    args: argparse.Namespace, config: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Rows and lines that stay where only some strategies are run, and the starts of their trainings.

    A file of another size or world has none.
    """
    shape = shape_of(args.out)
    if not (args.strategies or args.levels) or not (args.out.exists() and shape.exists()):
        return [], [], {}
    strategies, lines = (json.loads(path.read_text(encoding="utf-8")) for path in (args.out, shape))
    starts = strategies["config"].pop("starts")
    if strategies["config"] != json.loads(json.dumps(config)):
        return [], [], {}
    return strategies["rows"], lines["rows"], starts


def shape_of(out: Path) -> Path:
    """The file of the paper's lines beside that of the strategies."""
    return out.with_stem(f"{out.stem}-shape")


def write(
    out: Path,
    plan: Plan,
    config: dict[str, Any],
    found: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    lines: list[dict[str, Any]],
) -> None:
    """The rows of the strategies, and beside them those of the paper's lines.

    Args:
        out: file of the strategies.
        plan: whose lines are asked for.
        config: what decides the figures.
        found: the runs.
        rows, lines: of earlier runs.
    """
    write_result(out, "method", config, joined(rows, rows_of(found), ("level", "strategy", "setting")))
    lines = joined(lines, verdicts(found, claims_of(plan)), ("line",))
    write_result(shape_of(out), "method, the paper's lines", config, lines)


def joined(earlier: list[dict[str, Any]], new: list[dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Earlier rows and new ones; of two with the same names that of more seeds, and of as many the new one."""
    rows = {tuple(row[name] for name in names): row for row in earlier}
    for row in new:
        key = tuple(row[name] for name in names)
        if key not in rows or row["seeds"] >= rows[key]["seeds"]:
            rows[key] = row
    return list(rows.values())


def claims_of(plan: Plan) -> list[Claim]:
    """The lines of the paper that a plan can bear out."""
    names = [level for level in plan.levels if isinstance(level, str)]
    return claims_of_data(names) if names else claims([float(level) for level in plan.levels], SWEEP_LEVEL)


def config_of(plan: Plan) -> dict[str, Any]:
    """Everything that decides a run's figures, but level, seed, strategy and setting."""
    config = {"size": asdict(plan.size), "defaults": asdict(plan.default)}
    if isinstance(plan.size, DataSize):
        return config | {"parts": PARTS}
    return config | {
        "world": {
            "clarity": world.CLARITY,
            "care": world.CARE,
            "padding_odds": world.PADDING_ODDS,
            "bayes_accuracy": round(world.bayes_accuracy(), 4),
        },
    }


def files_of(data: Path, base: Path) -> dict[str, Any]:
    """What identifies the files that the corpora and proxies of real text are made from."""
    return {
        "data": {name: file_identity(str(data / file)) for name, file in FILES.items()},
        "base": digest(json.dumps(model_identity(str(base)))),
    }


def quiet() -> None:
    """One thread; warnings and progress bars off."""
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


if __name__ == "__main__":
    main()
