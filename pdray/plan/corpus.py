"""What a corpus holds, by reading some of its files, or the finished corpus of the run. Starts no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pdray.config import RunConfig
from pdray.corpus.check import PROMPT_KEY, bad_responses, check_pairs, check_responses, pair_responses
from pdray.corpus.form import form_and_rules
from pdray.corpus.read import describe, look_at_files
from pdray.corpus.rows import DROPPED, RowRules, canonical
from pdray.errors import UserError
from pdray.hashing import hash64
from pdray.pipeline import Step
from pdray.plan.chunks import Chunks, read_chunks
from pdray.plan.distinct import estimate_distinct
from pdray.progress import Counted
from pdray.schema import PAIRS, PROMPTS, CorpusOutput
from pdray.shards import ShardedFolder
from pdray.texts import read_texts

SHARDS = 8  # of a finished corpus that are read
MOST_SCATTERED = 0.02  # share of prompts that may stand in several places
INSTEAD = "run `pdray run --until corpus` first, whose figures pdray plan then uses"


@dataclass(frozen=True)
class CorpusFacts:
    """A corpus in numbers, counted or estimated.

    Attributes:
        rows: read, good and bad.
        pairs: of them, with a ``pair_id`` of their own.
        prompts, texts: distinct prompts, and distinct responses to each.
        aspects: pairs by aspect.
        rated: aspects with true ratings.
        exact: names of the figures above that are counted and not estimated.
        read: rows that were read for this.
        input_bytes: of the files, unpacked; 0 where the corpus is finished.
        prompt_bytes, response_bytes: of a distinct prompt, and a distinct response, in the mean.
        conversational: whether texts are lists of messages.
        bad: share of the rows that would be quarantined, by reason.
        sample: the pairs that were read: ``prompt``, ``chosen`` and ``rejected``.
        source: in a few words, what was read.
        notes: what is worth telling.
    """

    rows: float
    pairs: float
    prompts: float
    texts: float
    aspects: dict[str, float]
    rated: int
    exact: tuple[str, ...]
    read: int
    input_bytes: float
    prompt_bytes: float
    response_bytes: float
    conversational: bool
    bad: dict[str, float]
    sample: pa.Table
    source: str
    notes: list[str] = field(default_factory=list)

    @property
    def text_bytes(self) -> float:
        """Of all distinct prompts and responses."""
        return self.prompts * self.prompt_bytes + self.texts * self.response_bytes

    @property
    def pair_bytes(self) -> float:
        """Of the three texts of a pair."""
        return self.prompt_bytes + 2 * self.response_bytes


def corpus_facts(config: RunConfig, step: Step) -> CorpusFacts:
    """What is known of a run's corpus: of the finished stage where it is finished, else of the files.

    Args:
        config: the run.
        step: of its corpus.

    Raises:
        UserError: the corpus cannot be read or sampled; the message says what to do instead.
    """
    if isinstance(step.output, CorpusOutput):
        folder = ShardedFolder(step.folder, step.fingerprint, step.output.num_shards)
        assert step.manifest is not None, "a stage with an output has its manifest"
        return _of_shards(folder, step.output, int(step.manifest["rows_in"]), config.seed)
    if config.corpus.hub is not None:
        raise UserError(f"corpus.hub is {config.corpus.hub}, and a plan reads files alone; {INSTEAD}")
    parts = look_at_files(config.corpus)
    form, rules = form_and_rules(config.corpus, describe(config.corpus, parts), config.seed)
    chunks = read_chunks(parts, config.seed)
    checked, read = _checked(chunks, form, rules)
    return _facts(chunks, checked, read, rules, config.corpus.max_quarantined)


def _checked(chunks: Chunks, form: str, rules: RowRules) -> tuple[list[pa.Table], int]:
    """Rows of the checked schema, chunk by chunk, and how many rows of the files they come from."""
    counter: Any = Counted()
    if form != "rated responses":
        check = partial(check_pairs, rules=rules, rated=form == "rated pairs", counter=counter)
        return [check(table) for table in chunks.tables], sum(map(len, chunks.tables))
    responses = [check_responses(table, rules, counter) for table in chunks.tables]
    if chunks.whole:
        responses = [pa.concat_tables(responses)] if responses else []
    else:
        _refuse_scattered(responses)
        responses = [_without_edges(table) for table in responses]
    pairs = [pa.concat_tables([*pair_responses(one, rules), bad_responses(one, rules)]) for one in responses]
    return pairs, sum(map(len, responses))


def _refuse_scattered(responses: list[pa.Table]) -> None:
    """Refuse responses whose prompts do not stand together: a part of them does not tell how many pairs they make."""
    runs: Counter[str] = Counter()
    for table in responses:
        keys = [key for key in table[PROMPT_KEY].to_pylist() if key is not None]
        runs.update(key for row, key in enumerate(keys) if row == 0 or key != keys[row - 1])
    scattered = sum(count > 1 for count in runs.values())
    if scattered > MOST_SCATTERED * max(1, len(runs)):
        raise UserError(
            "the responses to a prompt do not stand beside each other in the files of corpus.path, so that a part of "
            f"them does not tell how many pairs they make; {INSTEAD}"
        )


def _without_edges(table: pa.Table) -> pa.Table:
    """A chunk without its first and last prompt, of which some responses may lie outside."""
    keys = table[PROMPT_KEY]
    edges = pa.array([key for key in (keys[0].as_py(), keys[len(table) - 1].as_py()) if key is not None], pa.string())
    return table.filter(pc.invert(pc.is_in(keys, edges)))


def _facts(chunks: Chunks, checked: list[pa.Table], read: int, rules: RowRules, limit: float) -> CorpusFacts:
    reasons = Counter(reason for table in checked for reason in table["reason"].to_pylist() if reason is not None)
    good = [table.filter(pc.is_null(table["reason"])) for table in checked]
    found = sum(map(len, good))
    if not found:
        listing = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(5))
        raise UserError(
            f"none of {read:,} rows that were read gave a pair ({listing or 'there are no rows'}); give pairs that can "
            "be told apart, or correct corpus.path and corpus.columns"
        )
    share = min(1.0, read / chunks.rows) if not chunks.whole else 1.0
    pairs = estimate_distinct([hash64(table["pair_id"].to_pylist(), "pairs") for table in good], share)
    keys = [_text_keys(table) for table in good]
    bad = {reason: count / max(1, read) for reason, count in reasons.most_common() if reason not in DROPPED}
    notes = list(chunks.notes)
    if sum(bad.values()) > limit:
        listing = ", ".join(f"{part:.1%} {reason}" for reason, part in list(bad.items())[:5])
        notes.append(f"bad rows ({listing}) are more than corpus.max_quarantined {limit:g}: the run would stop there")
    sample = pa.concat_tables([table.select(["prompt", "chosen", "rejected", "aspect"]) for table in good])
    by_aspect = Counter(sample["aspect"].to_pylist())
    whole = ("rows", "pairs", "prompts", "texts", "aspects")
    return CorpusFacts(
        rows=chunks.rows,
        pairs=pairs,
        prompts=estimate_distinct([prompts for prompts, _ in keys], share),
        texts=estimate_distinct([texts for _, texts in keys], share),
        aspects={aspect: pairs * count / found for aspect, count in sorted(by_aspect.items())},
        rated=len(rules.ratings),
        exact=whole if chunks.whole else ("rows",) if chunks.exact_rows else (),
        read=read,
        input_bytes=chunks.input_bytes,
        **_bytes(sample),
        conversational=rules.conversational,
        bad=bad,
        sample=sample,
        source="all files" if chunks.whole else f"{len(chunks.tables)} places of the files",
        notes=notes,
    )


def _text_keys(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the prompts and of both texts of some pairs, as the corpus stage tells texts apart."""
    prompts = [canonical(prompt) for prompt in pairs["prompt"].to_pylist()]
    texts = [
        f"{len(prompt)} {prompt}{canonical(text)}"
        for side in ("chosen", "rejected")
        for prompt, text in zip(prompts, pairs[side].to_pylist(), strict=True)
    ]
    return hash64(prompts, "prompts"), hash64(texts, "texts")


def _bytes(sample: pa.Table) -> dict[str, Any]:
    """Mean bytes of distinct prompts and responses."""
    prompts = {canonical(text) for text in sample["prompt"].to_pylist()}
    responses = {canonical(text) for side in ("chosen", "rejected") for text in sample[side].to_pylist()}
    return {
        f"{name}_bytes": sum(len(text.encode("utf-8", "replace")) for text in texts) / max(1, len(texts))
        for name, texts in (("prompt", prompts), ("response", responses))
    }


def _of_shards(folder: ShardedFolder, output: CorpusOutput, rows: int, seed: int) -> CorpusFacts:
    draw = np.random.default_rng([seed, 1])
    shards = sorted(draw.permutation(output.num_shards)[:SHARDS].tolist())
    parts = []
    for shard in shards:
        pairs, texts = folder.read(PAIRS, shard), read_texts(folder, shard)
        chosen, rejected = (texts.take(pairs[f"{side}_row"]) for side in ("chosen", "rejected"))
        columns = [chosen["prompt"], chosen["response"], rejected["response"], pairs["aspect"]]
        parts.append(pa.table(dict(zip(("prompt", "chosen", "rejected", "aspect"), columns, strict=True))))
    sample = pa.concat_tables(parts)
    markers = folder.done().values()
    prompts = sum(
        stated["rows"] for one in markers for name, stated in one.files.items() if name.startswith(f"{PROMPTS}/")
    )
    return CorpusFacts(
        rows=rows,
        pairs=output.pairs,
        prompts=prompts,
        texts=output.texts,
        aspects={aspect: float(count) for aspect, count in output.aspect_pairs.items()},
        rated=len(output.rated),
        exact=("rows", "pairs", "prompts", "texts", "aspects"),
        read=len(sample),
        input_bytes=0,
        **_bytes(sample),
        conversational=output.conversational,
        bad={},
        sample=sample,
        source=f"the finished corpus, {len(shards)} of its {output.num_shards} shards",
    )
