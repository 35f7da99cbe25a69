"""What a stage tells of its pass: figures for the manifest, and what is worth a sentence."""

from __future__ import annotations

from typing import Any

from pdray.config import EngineConfig
from pdray.engines.shards import PassResult
from pdray.runtime import living_nodes
from pdray.schema import CorpusOutput

LISTED = 20  # failed texts in the manifest; the markers have them all


def pass_metrics(config: EngineConfig, corpus: CorpusOutput, result: PassResult) -> dict[str, Any]:
    """The figures of a pass that writes a row for every text of the corpus.

    ``texts_per_second`` and ``tokens_per_second`` count what the engine read, from its first text to its last;
    ``pairs_per_second`` the pairs of the corpus that this amounts to.
    """
    written = sum(stated["rows"] for marker in result.markers.values() for stated in marker.files.values())
    assert written == corpus.texts, f"{written} texts are written, {corpus.texts} are in the corpus"
    computed = result.total("texts")
    rates = result.rates
    pairs = corpus.pairs * result.texts / computed / result.seconds if computed and result.seconds else None
    return {
        "engine": config.engine,
        "dtype": config.resolved_dtype,
        "num_actors": result.num_actors,
        "texts": corpus.texts,
        "computed": computed,
        "pairs_per_second": pairs and round(pairs, 3),
        "texts_per_second": rates["texts_per_second"],
        "tokens_per_second": rates["tokens_per_second"],
        "max_parity_error": result.parity and result.parity.max_error,
        "parity_rank": result.parity and result.parity.rank,
        "parity_rows": config.parity_rows,
        "truncated": result.total("truncated"),
        "non_finite": result.total("non_finite"),
        "failed": len(result.failed),
        "failed_texts": [list(one) for one in result.failed[:LISTED]],
    }


def pass_notes(config: EngineConfig, metrics: dict[str, Any], number: tuple[str, str], cut: str) -> list[str]:
    """What is worth telling of a pass.

    Args:
        config: its section.
        metrics: see :func:`pass_metrics`.
        number: what a text gets, in the singular and in the plural.
        cut: what is kept of a text that is too long.
    """
    notes, one, several = [], *number
    if metrics["truncated"]:
        notes.append(
            f"{metrics['truncated']:,} texts were cut to {config.section}.max_tokens = {config.max_tokens}: {cut}"
        )
    if metrics["failed"]:
        first = "; ".join(f"shard {shard} row {row}: {why}" for shard, row, why in metrics["failed_texts"][:3])
        notes.append(f"{metrics['failed']:,} texts could not be scored and have no {one} ({first})")
    if metrics["non_finite"]:
        notes.append(
            f"{metrics['non_finite']:,} {several} are NaN or infinite; selection never keeps such a pair by them"
        )
    num_gpus = sum(node.get("GPU", 0) for node in living_nodes())
    if num_gpus and not config.gpus_per_actor:
        notes.append(
            f"the cluster has {num_gpus:g} GPUs that this pass left idle; set {config.section}.gpus_per_actor to use "
            "them"
        )
    return notes
