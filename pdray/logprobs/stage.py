"""The logprobs stage: how likely the policy and the reference find every response, once however many pairs it is in.

logprobs-<hash8>/
  texts/shard-00017.parquet   see pdray.schema.logprobs_schema; row-aligned with the corpus' texts
  parity.parquet              the engine beside Transformers on sampled texts
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.config import LogprobsConfig, RunConfig, fingerprinted
from pdray.engines.encode import TextFacts
from pdray.engines.engine import EngineLoader, load_engine
from pdray.engines.report import pass_metrics, pass_notes
from pdray.engines.shards import TextPass, run_text_pass
from pdray.errors import UserError, check_together
from pdray.identity import model_identity
from pdray.models.folder import check_model_folder
from pdray.models.positions import check_positions
from pdray.models.vocabulary import check_same_vocabulary
from pdray.responses import cut_rule
from pdray.schema import TEXTS, LogprobsOutput, logprobs_schema
from pdray.stages import Stage, StageContext, StageResult, Upstream
from pdray.storage import StoragePath


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the log-probabilities; how many actors compute them does not."""
    logprobs = _section(config)
    models = {name: model_identity(folder) for name, folder in logprobs.folders.items()}
    return fingerprinted(logprobs) | {"dtype": logprobs.resolved_dtype, "models": models}


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse models that are not whole, read fewer tokens, or number their tokens differently.

    Raises:
        UserError: one of these; see :func:`~pdray.models.folder.check_model_folder`.
    """
    del upstream
    logprobs = _section(config)
    # vLLM has to generate a token after every text.
    spare = 1 if logprobs.engine == "vllm" else 0
    checks: list[Callable[[], object]] = []
    for name, folder in logprobs.folders.items():
        checks.append(partial(check_model_folder, f"logprobs.{name}", folder, "policy"))
        checks.append(partial(check_positions, "logprobs.max_tokens", logprobs.max_tokens, folder, spare))
    if logprobs.reference is not None:
        checks.append(partial(_check_reference, logprobs.policy, logprobs.reference))
    check_together(checks)


def _check_reference(policy: str, reference: str) -> None:
    if model_identity(policy) == model_identity(reference):
        raise UserError(
            f"logprobs.reference is {reference}, the very model that logprobs.policy names, so that every ratio of the "
            "two is 1; name the model that the policy was trained from, or leave the reference out"
        )
    check_same_vocabulary(f"logprobs.reference is {reference}", reference, f"logprobs.policy {policy}", policy)


def run(ctx: StageContext, load: EngineLoader = load_engine) -> StageResult:
    """Read every text of the corpus with the policy, and with the reference where there is one.

    Args:
        ctx: see :class:`~pdray.stages.StageContext`.
        load: loads a model; tests bring their own.

    Raises:
        UserError: the models, the cluster or the engine do not fit the config, the log-probabilities are not those of
            Transformers, or more than ``logprobs.max_failed`` of the texts cannot be read.
    """
    corpus, logprobs = ctx.upstream.corpus, _section(ctx.config)
    assert corpus is not None, "the pipeline hands over what the stage names as upstream"
    names = list(logprobs.folders)
    text_pass = TextPass(
        models=[StoragePath(folder) for folder in logprobs.folders.values()],
        rule=cut_rule(logprobs.max_tokens, logprobs.prompt_tokens),
        corpus=ctx.upstream.shards("corpus"),
        target=ctx.shards(corpus.num_shards),
        rows=None,
        write=LogprobWriter(names),
        config=logprobs,
        labels=[f"logp.{name}" for name in names],
        load=load,
        output="logps",
    )
    result = run_text_pass(text_pass, ctx.progress, "log-probabilities")
    metrics = pass_metrics(logprobs, corpus, result) | {
        "models": names,
        "shards_digest": text_pass.target.digest(result.markers),
    }
    cut = "a long prompt lost its beginning, a response its end"
    notes = pass_notes(logprobs, metrics, ("log-probability", "log-probabilities"), cut)
    output = LogprobsOutput(corpus.num_shards, names, corpus.texts)
    return StageResult(output, corpus.texts, corpus.texts, metrics=metrics, notes=notes)


@dataclass(frozen=True)
class LogprobWriter:
    """A :class:`~pdray.engines.shards.ShardWriter`.

    Attributes:
        models: names of the outputs, in order.
    """

    models: list[str]

    def __call__(
        self, shard: int, rows: np.ndarray, outputs: np.ndarray, facts: TextFacts
    ) -> tuple[dict[str, pa.Table], dict[str, Any]]:
        """``texts`` by :func:`pdray.schema.logprobs_schema`, and no facts of its own."""
        columns = [*outputs.T, facts.num_tokens, facts.truncated]
        return {TEXTS: pa.table([pa.array(one) for one in columns], schema=logprobs_schema(self.models))}, {}


def _section(config: RunConfig) -> LogprobsConfig:
    assert config.logprobs is not None, "the pipeline leaves the stage out where it is not configured"
    return config.logprobs


STAGE = Stage(
    name="logprobs",
    version=1,
    upstream=("corpus",),
    settings=settings,
    run=run,
    load=lambda value: LogprobsOutput(**value),
    shown=(
        "engine",
        "dtype",
        "models",
        "texts",
        "computed",
        "texts_per_second",
        "max_parity_error",
        "truncated",
        "non_finite",
        "failed",
    ),
    check=check,
    optional=True,
)
