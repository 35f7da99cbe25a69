"""What finished runs tell of the speed of this machine: rates from their manifests, for the models of a config."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdray.alignment import data
from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.plan import flops
from pdray.plan.cost import Known, Model
from pdray.plan.flops import Lengths
from pdray.plan.passes import reading, reading_apart
from pdray.plan.rates import START, Measured, Rate, Work
from pdray.report.run import RunView, read_run
from pdray.storage import StoragePath

MOST_RUNS = 30  # folders beside a run that are looked at
SHORT = 1.0  # seconds below which a pass tells no rate


@dataclass(frozen=True)
class _Finished:
    """A run, and what is known of the one that is planned."""

    view: RunView
    config: RunConfig
    known: Known
    source: str

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Of a stage that ended at its first attempt: others' seconds include what was lost."""
        manifest = self.view[name].manifest
        return manifest if self.view[name].complete and manifest.get("attempts") == 1 else None

    @property
    def scale(self) -> float:
        """How much longer this run's texts were, in tokens; 1 where nobody says."""
        scores, (model, *_) = self.manifest("scores"), self.known.proxies.values()
        rates = scores["metrics"] if scores else {}
        if model.texts is None:
            return 1.0
        if rates.get("texts_per_second"):
            tokens = float(rates["tokens_per_second"] / rates["texts_per_second"]) / self.num_models
            return tokens / model.texts.whole.mean
        return self._scale_of_features(model)

    def _scale_of_features(self, model: Model) -> float:
        """The same where all texts were read for features; both runs read a prompt once that many texts share."""
        proxies = self.manifest("proxies")
        metrics = proxies["metrics"] if proxies else {}
        if "features" not in metrics:
            return 1.0
        (kind, of_kind), *_ = sorted(metrics["readings"].items(), reverse=True)  # together, where it was tried
        facts = self.known.corpus
        if kind == "together":
            planned = reading(model, facts.texts, facts.prompts, self.known.config.scores)
        else:
            planned = reading_apart(model, facts.texts, facts.prompts)
        return float(of_kind["tokens"] / metrics["features"]["texts"] / (planned.tokens / facts.texts))

    @property
    def num_models(self) -> int:
        """Models of an actor, each of which reads every text."""
        proxies = self.config.proxies
        if proxies.models is not None:
            return len(proxies.folders)
        corpus = self.view["corpus"].manifest["metrics"]
        separate = proxies.train == "all" and proxies.kind == "separate"
        return len(corpus["aspects"]) + proxies.unified if separate else 1


def rates_of(run: str, known: Known) -> Measured:
    """Rates that a finished run measured with the models of another config; nothing where it tells none.

    It is taken to have run on this machine. Lengths of texts are those of the planned run, scaled to those that the
    finished one says its reward models read.

    Args:
        run: its folder.
        known: of the run that is planned, on this machine.
    """
    found: Measured = {}
    try:
        view = read_run(run)
        config = RunConfig.model_validate(view.config)
    except (UserError, ValueError):  # no run, or a config of another version
        return found
    finished = _Finished(view, config, known, f"{run}, {_day(view)}")
    for measure in (_scoring, _training, _alignment, _evaluation):
        try:
            found |= {key: rate for key, rate in measure(finished) if rate.tflops > 0}
        except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
            continue  # a manifest of another version, or damaged: it tells nothing
    return found


def runs_beside(run: str) -> list[str]:
    """The run folder itself, and others in the same local folder, the newest first."""
    root = StoragePath(run)
    if not root.is_local:
        return [run]
    parent = root.local.parent
    found = [path.parent for path in parent.glob("*/run.json")] if parent.is_dir() else []
    others = sorted((path for path in found if path != root.local), key=lambda path: -path.stat().st_mtime)
    return [run, *map(str, others[:MOST_RUNS])]


def _day(view: RunView) -> str:
    days = [str(stage.manifest.get("started", "")).partition("T")[0] for stage in view.stages.values()]
    return max(days, default="")


def _same(identity: Any, model: Model) -> bool:
    """Whether a manifest speaks of a model of the planned run, by content."""
    from pdray.identity import model_identity

    return bool(identity) and [list(pair) for pair in identity] == model_identity(model.folder)


def _proxy(finished: _Finished) -> Model | None:
    """The model of the planned run that the finished one's proxies are made from."""
    manifest = finished.view["proxies"].manifest
    identities = list(manifest.get("config", {}).get("models", {}).values())
    models = list(finished.known.proxies.values())
    if len(models) == len(identities) and all(
        _same(identity, model) for identity, model in zip(identities, models, strict=True)
    ):
        return models[0]
    return None


def _cpus(config: RunConfig, given: float | None, gpus: float) -> float:
    """GPUs of an actor or, without, its CPUs."""
    return gpus or given or config.cluster.num_cpus or os.cpu_count() or 1


def _scoring(finished: _Finished) -> Iterator[tuple[str, Rate]]:
    model, manifest = _proxy(finished), finished.manifest("scores")
    if model is None or manifest is None or model.texts is None:
        return
    section, metrics = finished.config.scores, manifest["metrics"]
    seconds, actors = metrics["scoring_seconds"], metrics["num_actors"]
    if not metrics["texts_per_second"] or seconds < SHORT:
        yield from _features(finished, model)
        return
    lengths = Lengths(np.array([max(1, round(model.texts.whole.mean * finished.scale))]))
    corpus = finished.known.corpus
    whole = flops.forward(model.shape, corpus.texts, model.texts.whole, False)
    shared = reading(model, corpus.texts, corpus.prompts, section).operations / whole
    operations = flops.forward(model.shape, metrics["texts_per_second"], lengths, False) * finished.num_models * shared
    size = actors * _cpus(finished.config, section.cpus_per_actor, section.gpus_per_actor)
    yield (
        _key(finished, "scoring", model, metrics["dtype"], section.gpus_per_actor > 0),
        Rate(operations / 1e12 / size, max(1.0, manifest["seconds"] - seconds), finished.source),
    )


def _features(finished: _Finished, model: Model) -> Iterator[tuple[str, Rate]]:
    """Of a frozen backbone, whose pass is part of the proxies stage."""
    manifest, section = finished.manifest("proxies"), finished.config.scores
    if manifest is None or "features" not in manifest["metrics"]:
        return
    metrics = manifest["metrics"]
    rates, fits = metrics["features"], sum(facts["seconds"] for facts in metrics["aspects"].values())
    length = rates["tokens_per_second"] / rates["texts_per_second"] / len(metrics["readings"])
    operations = len(metrics["readings"]) * flops.forward_padded(model.shape, rates["texts_per_second"], length, False)
    size = _cpus(finished.config, section.cpus_per_actor, section.gpus_per_actor)
    start = manifest["seconds"] - rates["seconds"] - fits * len(metrics["readings"]) / (os.cpu_count() or 1)
    yield (
        _key(finished, "scoring", model, section.resolved_dtype, section.gpus_per_actor > 0),
        Rate(operations / 1e12 / size, max(1.0, start), finished.source),
    )


def _training(finished: _Finished) -> Iterator[tuple[str, Rate]]:
    model, manifest, proxies = _proxy(finished), finished.manifest("proxies"), finished.config.proxies
    if model is None or model.texts is None or manifest is None or manifest["metrics"].get("train") != "all":
        return
    trainings = manifest["metrics"]["trainings"].values()
    steps, seconds = (sum(one[name] for one in trainings) for name in ("steps", "seconds"))
    on_gpu = proxies.gpus_per_worker > 0
    length = model.texts.whole.longest_of(2 * proxies.batch_size) * finished.scale
    factor = flops.training_passes(on_gpu, proxies.lora is not None)
    operations = steps * factor * flops.forward_padded(model.shape, 2 * proxies.batch_size, length, False)
    held_out = sum(facts["held_out_pairs"] for facts in manifest["metrics"]["aspects"].values())
    mean = model.texts.whole.mean * finished.scale
    operations += len(trainings) * flops.forward_padded(model.shape, 2 * held_out, mean, False)
    size = proxies.gpus_per_worker if on_gpu else proxies.cpus_per_worker
    places = (os.cpu_count() or 1) // max(1, int(proxies.cpus_per_worker * proxies.num_workers))
    at_once = 1 if on_gpu else max(1, min(len(trainings), places))
    yield (
        _key(finished, "training", model, proxies.dtype, on_gpu),
        Rate(operations / seconds / 1e12 / size, max(1.0, manifest["seconds"] - seconds / at_once), finished.source),
    )


def _alignment(finished: _Finished) -> Iterator[tuple[str, Rate]]:
    model, manifest, alignment = finished.known.policy, finished.manifest("alignment"), finished.config.alignment
    lengths = finished.known.policy_pairs
    if model is None or manifest is None or alignment is None or lengths is None:
        return
    if not _same(manifest["config"]["policy_files"], model):
        return
    metrics, on_gpu = manifest["metrics"], alignment.gpus_per_worker > 0
    workers, batch = metrics["num_workers"], alignment.batch_size
    length = min(lengths.longest_of(batch) * finished.scale, alignment.max_tokens)
    pair = flops.forward_padded(model.shape, 2, length, True)
    factor = flops.training_passes(alignment.gradient_checkpointing, alignment.lora is not None)
    step = factor * data.accumulation(alignment, workers) * batch * pair
    size = 1.0 if on_gpu else alignment.cpus_per_worker
    speed = step / metrics["seconds_per_step"]
    read = math.ceil((metrics["reference_computed"] + metrics["eval_pairs"]) / workers) * pair / speed
    start = manifest["seconds"] - metrics["steps"] * metrics["seconds_per_step"] - read
    yield (
        _key(finished, "alignment", model, alignment.dtype, on_gpu),
        Rate(speed / size / 1e12, max(1.0, start), finished.source),
    )


def _evaluation(finished: _Finished) -> Iterator[tuple[str, Rate]]:
    model, manifest, section = finished.known.policy, finished.manifest("evaluation"), finished.config.evaluation
    aligned, lengths = finished.view["alignment"].manifest, finished.known.held_out
    if model is None or manifest is None or section is None or lengths is None or not aligned:
        return
    if not _same(aligned["config"]["policy_files"], model):
        return
    if section.generation is not None or manifest["metrics"].get("computed") != manifest["rows_out"]:
        return  # its seconds are not those of its pairs
    on_gpu, seconds = section.gpus > 0, manifest["seconds"]
    start = min(START["evaluation"][on_gpu], seconds / 2)  # it does not tell the two apart
    at_once = min(math.ceil(manifest["rows_out"] / 512), max(1, int((os.cpu_count() or 1) / (section.gpus or 1))))
    operations = flops.forward(model.shape, 4 * manifest["rows_out"], lengths, True)
    rate = Rate(operations / (seconds - start) / 1e12 / at_once / (section.gpus or 1), start, finished.source)
    yield _key(finished, "evaluation", model, "float32", on_gpu), rate


def _key(finished: _Finished, work: Work, model: Model, dtype: str, on_gpu: bool) -> str:
    return finished.known.rate_key(work, model.folder, dtype, on_gpu)
