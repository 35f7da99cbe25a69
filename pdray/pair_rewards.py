"""Rewards of pairs outside a run: corpus and scoring in a temporary folder, by the rooms that a run goes through."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pdray.aspects import UNIFIED
from pdray.config import RunConfig, build_config
from pdray.errors import UserError, check_together
from pdray.loaded import loaded_models
from pdray.models.fit import check_fit
from pdray.models.torch_builds import check_torch_builds
from pdray.outputs import StageOutput
from pdray.schema import PAIRS, TEXTS, CorpusOutput, ProxiesOutput
from pdray.scoring.models import model_folder
from pdray.shards import ShardedFolder
from pdray.stages import StageContext, Upstream
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from ray.data import Dataset

    from pdray.console import Console

FINGERPRINT = "pairs"  # of shards in a folder that is new for each call
SIDES = ("chosen", "rejected")
COLUMNS = ("prompt", *SIDES)


def score_pairs(
    pairs: pa.Table | Dataset,
    proxies: Mapping[str, Any] | StageOutput,
    scratch: str | Path | None = None,
    **scores: Any,
) -> pa.Table | Dataset:
    """The reward of every proxy for the chosen and the rejected response of each pair, as a run's scores would have it.

    The pairs are written to a temporary folder and go through the corpus and scoring stages of a run there: every
    distinct text is scored once by each model, in actors, after the engine was compared with Transformers. The folder
    is removed at the end, so a call that was interrupted begins anew; for what takes hours use :class:`pdray.Run`.

    It runs in the Ray that this process is connected to, or else in one of its own that listens on loopback and ends
    with the call.

    Args:
        pairs: columns ``prompt``, ``chosen`` and ``rejected``, strings or lists of ``{role, content}``; a Ray Data set
            has ``pair_id`` too, text or integers, each once.
        proxies: what the stage proxies of a run has written; or as ``proxies.models`` of a config: aspect -> folder of
            a sequence classifier, or ``{"path": folder, "labels": {aspect: number}}`` for one with a label for each;
            two aspects or more.
        scratch: folder to make the temporary one in, which every node of a cluster mounts; None: this machine's.
        scores: settings of the section ``scores``, as in ``engine="transformers", max_tokens=1024``.

    Returns:
        for a table the same with the float32 columns ``reward_chosen.<aspect>`` and ``reward_rejected.<aspect>``
        appended; they are null in rows that a run sets aside, such as those with an empty text or equal responses. For
        a Ray Data set another one, held in Ray's object store, with ``pair_id``, as text, and those columns, without
        these rows; their order is not that of ``pairs``. A text that the engine could not read has NaN.

    Raises:
        UserError: columns, models or settings that do not fit; the rewards are not those of Transformers; more than
            ``max_failed`` of the texts cannot be scored; the cluster does not hold an actor, or not see ``scratch``.
    """
    is_table = isinstance(pairs, pa.Table)
    if not is_table and not hasattr(pairs, "write_parquet"):
        raise UserError(f"pairs is a {type(pairs).__name__}; give a pyarrow.Table or a Ray Data set")
    _check_columns(pairs.column_names if is_table else pairs.columns() or [], is_table, scratch)
    with tempfile.TemporaryDirectory(prefix="pdray-pairs-", dir=scratch) as folder:
        config, models = _checked(Path(folder), proxies, scores)
        if is_table and len(pairs) == 0:
            return _appended(pairs, _no_rewards(_aspects(models)))
        check_torch_builds()
        return _scored(config, models, pairs)


def _check_columns(names: list[str], is_table: bool, scratch: str | Path | None) -> None:
    if missing := [name for name in (*COLUMNS, *(() if is_table else ("pair_id",))) if name not in names]:
        raise UserError(f"pairs has no column {', '.join(missing)}; it has {', '.join(names) or 'none'}: rename yours")
    if taken := [name for name in names if is_table and name.startswith(tuple(f"reward_{side}." for side in SIDES))]:
        raise UserError(f"pairs has a column {taken[0]} already; drop it, and the rewards are scored anew")
    if scratch is not None and not Path(scratch).is_dir():
        raise UserError(f"scratch is {scratch}, which is no folder here; make it, or name another")


def _checked(
    root: Path, proxies: Mapping[str, Any] | StageOutput, scores: Mapping[str, Any]
) -> tuple[RunConfig, ProxiesOutput]:
    """A run that is sound as far as scoring looks at it, and its reward models."""
    import pdray.proxies.stage
    import pdray.scoring.stage
    from pdray.proxies.ready import reward_models

    path = root / "pairs.parquet"
    path.touch()  # a config names files that are there; the pairs come later
    settings: dict[str, Any] = {"run": str(root), "corpus": {"path": str(path)}, "scores": {**scores}}
    if isinstance(proxies, StageOutput):
        models = _of_run(proxies)
        config = build_config({**settings, "proxies": {"base_model": models.models[0].path}})
        pdray.scoring.stage.check(config, Upstream())
        return config, models
    config = build_config({**settings, "proxies": {"models": {**proxies}}})
    rooms = (pdray.proxies.stage, pdray.scoring.stage)
    checks = [partial(room.check, config, Upstream()) for room in rooms]
    check_together([*checks, lambda: check_fit(loaded_models(config, ["proxies"]))])
    aspects = [*config.proxies.model_aspects, *([UNIFIED] if config.proxies.has_unified else [])]
    return config, ProxiesOutput(reward_models(config.proxies, aspects), dict.fromkeys(aspects, 0.0))


def _of_run(proxies: StageOutput) -> ProxiesOutput:
    """The reward models of a run by their absolute paths, without the features of that run's texts."""
    if proxies.name != "proxies":
        raise UserError(f"proxies is the output of the stage {proxies.name}; give that of the stage proxies")
    output, run = ProxiesOutput.load(proxies.manifest["output"]), StoragePath(proxies.folder).parent
    models = [replace(model, path=str(model_folder(model.path, run))) for model in output.models]
    return replace(output, models=models, features=None)


def _aspects(proxies: ProxiesOutput) -> list[str]:
    return sorted(aspect for model in proxies.models for aspect in model.aspects if aspect is not None)


def _scored(config: RunConfig, models: ProxiesOutput, pairs: pa.Table | Dataset) -> pa.Table | Dataset:
    from pdray.console import logs_to_file
    from pdray.runtime import check_labels, head_watched, present_ray, remote

    root = StoragePath(config.run)
    with logs_to_file(root.local / "logs") as console:
        try:
            with present_ray(config.cluster), head_watched(console.say):
                import ray

                check_labels(console.say)
                _require_shared(root, console)
                _write(pairs, config.corpus.patterns[0])
                corpus, scores = _score(config, models, console)
                task = remote(_shard_rewards, max_retries=3)
                found = [task.remote(corpus, scores, _aspects(models), shard) for shard in range(corpus.num_shards)]
                if isinstance(pairs, pa.Table):
                    return _appended(pairs, pa.concat_tables(ray.get(found)))
                return ray.data.from_arrow_refs(found)
        finally:
            console.clear()


def _require_shared(root: StoragePath, console: Console) -> None:
    from pdray.probe import check_shared

    try:
        check_shared(root, console.say)
    except UserError:
        raise UserError(
            f"not every node of the Ray cluster sees {root.parent}, where the pairs would be written; give scratch a "
            "folder that all of them mount"
        ) from None


def _write(pairs: pa.Table | Dataset, path: str) -> None:
    """Put pairs in the place of a file, or of a folder of such; a table's rows go by their number."""
    if isinstance(pairs, pa.Table):
        numbers = pa.array(map(str, range(len(pairs))), pa.string())
        pq.write_table(_labelled(pairs.select(COLUMNS).append_column("pair_id", numbers)), path)
    else:
        Path(path).unlink()
        plain = pairs.select_columns(["pair_id", *COLUMNS])
        plain.map_batches(_labelled, batch_format="pyarrow").write_parquet(path)


def _labelled(pairs: pa.Table) -> pa.Table:
    """Pairs with an aspect, which those of a corpus have; rewards do not depend on it."""
    return pairs.append_column("aspect", pa.array(["any"] * len(pairs), pa.string()))


def _score(config: RunConfig, models: ProxiesOutput, console: Console) -> tuple[ShardedFolder, ShardedFolder]:
    """The shards of corpus and scores, from the stages' own work."""
    import pdray.corpus.stage
    import pdray.scoring.stage
    from pdray.progress import Progress

    root = StoragePath(config.run)

    def context(stage: str, upstream: Upstream) -> StageContext:
        folder = root / stage
        folder.make_folder()
        return StageContext(config, root, folder, FINGERPRINT, upstream, Progress(console, stage))

    ctx = context("corpus", Upstream())
    with ctx.progress.running():
        built = pdray.corpus.stage.build(ctx)
    report = built.report
    if report.pairs == 0:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.reasons.items()))
        raise UserError(f"none of {report.rows:,} rows is a pair ({reasons}); give pairs with texts that differ")
    if bad := report.bad.total():
        ctx.progress.note(f"{bad:,} of {report.rows:,} rows are no pairs, and get no rewards")
    conversational = built.rules.conversational
    output = CorpusOutput(built.plan.num_shards, report.pairs, report.texts, _aspects(models), {}, conversational)
    upstream = Upstream(
        folders={"corpus": ctx.folder},
        fingerprints={"corpus": FINGERPRINT},
        corpus=output,
        proxies=models,
    )
    scoring = context("scores", upstream)
    with scoring.progress.running():
        pdray.scoring.stage.run(scoring)
    return ctx.shards(output.num_shards), scoring.shards(output.num_shards)


def _shard_rewards(corpus: ShardedFolder, scores: ShardedFolder, aspects: list[str], shard: int) -> pa.Table:
    pairs = corpus.read(PAIRS, shard, ["pair_id", "chosen_row", "rejected_row"])
    rewards = scores.read(TEXTS, shard, [f"reward.{aspect}" for aspect in aspects])
    columns = {"pair_id": pairs["pair_id"]}
    for side in SIDES:
        taken = rewards.take(pairs[f"{side}_row"])
        columns |= {f"reward_{side}.{aspect}": taken[f"reward.{aspect}"] for aspect in aspects}
    return pa.table(columns)


def _no_rewards(aspects: list[str]) -> pa.Table:
    rewards = [(f"reward_{side}.{aspect}", pa.float32()) for side in SIDES for aspect in aspects]
    return pa.schema([("pair_id", pa.string()), *rewards]).empty_table()


def _appended(pairs: pa.Table, rewards: pa.Table) -> pa.Table:
    """Pairs with their rewards, which go by the number of the row; null in rows without."""
    place = np.full(len(pairs), -1)
    place[rewards["pair_id"].cast(pa.int64()).to_numpy()] = np.arange(len(rewards))
    found = rewards.drop_columns("pair_id").take(pa.array(place, mask=place < 0))
    for name in found.column_names:
        pairs = pairs.append_column(name, found[name])
    return pairs
