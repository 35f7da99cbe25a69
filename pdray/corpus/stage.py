"""The corpus stage: read, check, set bad rows aside, and write the pairs in shards by the hash of their prompt.

    corpus-<hash8>/
      plan.json                     which rows go to which shard, decided once
      prompts/shard-00017.parquet   every distinct prompt of the shard once
      texts/shard-00017.parquet     every distinct response to each of them once
      pairs/shard-00017.parquet     the pairs, which name their texts by row number
      quarantine/shard-00017.jsonl  one object per bad row: reason, file, row
      shards/shard-00017.json       the marker, written last

A shuffle by prompt is the one barrier. A second attempt reads and checks again, and shuffles and writes only what is
missing.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdray.config import CorpusConfig, RunConfig, alike, fingerprinted
from pdray.corpus.build import check_rows, default_texts, summarise_rows, write_missing
from pdray.corpus.files import input_identity
from pdray.corpus.form import absent_columns, form_and_rules
from pdray.corpus.plan import ShardPlan, make_plan, read_plan, record_plan
from pdray.corpus.read import RawCorpus, describe, look_at_files, open_corpus
from pdray.corpus.report import Report, add_up
from pdray.corpus.rows import NO_PROMPT, RowRules
from pdray.corpus.write import QUARANTINE
from pdray.errors import UserError
from pdray.identity import folder_identity
from pdray.schema import CorpusOutput
from pdray.shards import run_rounds
from pdray.stages import Stage, StageContext, StageResult, Upstream

MOST_LICENSES = 100  # in the manifest
LISTED = 5  # reasons in a message; all of them are in the quarantine


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the corpus: its section, the seed and the content of the input files.

    Of a data set on a hub nothing is known without a network but its name.
    """
    section = fingerprinted(config.corpus)
    files: list[Any] = input_identity(config.corpus.patterns, config.corpus.partition_columns)
    if config.corpus.hub is not None and Path(config.corpus.hub).is_dir():
        files = folder_identity(config.corpus.hub)
        section = section | {"hub": None}
    return section | {"seed": config.seed, "files": files}


def check(config: RunConfig, upstream: Upstream) -> None:
    """Refuse files that are of another kind than their names say, and columns that are not there.

    Raises:
        UserError: what :func:`run` would find in schemas and first rows; a hub data set is not looked at.
    """
    corpus = config.corpus
    if corpus.hub is None:
        parts = look_at_files(corpus)
        if not any(part.holds_rows for part in parts):
            raise UserError(f"no file of corpus.path holds a row ({', '.join(corpus.patterns)}); check the path")
        form_and_rules(corpus, describe(corpus, parts), config.seed)


@dataclass(frozen=True)
class Built:
    """A corpus whose shards are written, whatever they hold.

    Attributes:
        raw: what was read.
        rules: of its rows.
        plan: of its shards.
        report: counts of all shards.
        digest: of all shards.
    """

    raw: RawCorpus
    rules: RowRules
    plan: ShardPlan
    report: Report
    digest: str


def run(ctx: StageContext) -> StageResult:
    """Build the corpus.

    Raises:
        UserError: a column is missing, fewer than two aspects are found, or too many rows are bad.
    """
    built = build(ctx)
    _refuse_if_bad(ctx.config.corpus, built, str(ctx.folder / QUARANTINE))
    return _result(built)


def build(ctx: StageContext) -> Built:
    """Read, check and write what is missing; refuses no row and no corpus for what it holds.

    Raises:
        UserError: a column is missing, or a file cannot be read.
    """
    config = ctx.config.corpus
    raw = open_corpus(config)
    form, rules = form_and_rules(config, raw, ctx.config.seed)

    @functools.cache
    def checked() -> Any:
        return check_rows(raw, form, rules, ctx.progress)

    plan = read_plan(ctx.folder)
    if plan is None:
        summary = summarise_rows(checked(), sorted(rules.ratings))
        texts = config.texts_per_shard or default_texts(ctx.config.scores)
        plan = record_plan(ctx.folder, make_plan(summary, sorted(rules.ratings), texts, checked().responses))
    shards = ctx.shards(plan.num_shards)
    markers = run_rounds(
        shards,
        lambda missing: write_missing(missing, checked(), plan, rules, shards, ctx.progress),
        ctx.progress.note,
    )
    report = add_up(markers.values())
    assert report.rows == plan.rows, f"{plan.rows} rows were read, {report.rows} are in shards"
    return Built(raw, rules, plan, report, shards.digest(markers))


def _refuse_if_bad(config: CorpusConfig, built: Built, quarantine: str) -> None:
    raw, report, responses = built.raw, built.report, built.plan.responses
    rows_read = responses[0] if responses else report.rows
    bad = report.bad.total()
    listing = ", ".join(f"{count:,} {reason}" for reason, count in _ranked(report.bad))
    if report.reasons[NO_PROMPT] > report.rows / 2:  # a prompt column was forgotten, or has another name
        raise UserError(
            f"{absent_columns(config, ['prompt'], raw.columns)}; and in {report.reasons[NO_PROMPT]:,} of "
            f"{report.rows:,} rows the responses share no beginning that could be the prompt"
        )
    if rows_read == 0:
        raise UserError("the corpus holds no rows; check corpus.path")
    if bad > config.max_quarantined * rows_read:
        raise UserError(
            f"{bad:,} of {rows_read:,} rows are bad ({listing}), more than corpus.max_quarantined "
            f"({config.max_quarantined}) allows; they stand in {quarantine}: mend them or raise it"
        )
    if report.pairs == 0:
        every = ", ".join(f"{count:,} {reason}" for reason, count in _ranked(report.reasons))
        raise UserError(f"none of {rows_read:,} rows gave a pair ({every}); give pairs that can be told apart")
    if same := alike(sorted(report.aspects)):
        raise UserError(
            f"the corpus has the aspects {same[0]!r} and {same[1]!r}, which differ by spaces or Unicode form alone; "
            "write them alike, or set corpus.aspects to those that you mean"
        )
    if len(report.aspects) < 2:
        raise UserError(
            f"the corpus has {len(report.aspects)} aspect ({', '.join(report.aspects)}); preference divergence "
            "compares aspects, so give pairs labelled by at least two"
        )


def _ranked(reasons: dict[str, int]) -> list[tuple[str, int]]:
    """The commonest reasons, the same whatever order they were counted in."""
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:LISTED]


def _result(built: Built) -> StageResult:
    report, rules, plan = built.report, built.rules, built.plan
    aspects = dict(sorted(report.aspects.items()))
    bad = dict(sorted(report.bad.items()))
    repeated = plan.responses[1] if plan.responses else report.repeated
    notes = [f"{count:,} rows quarantined: {reason}" for reason, count in sorted(bad.items(), key=lambda i: -i[1])]
    if repeated:
        notes.append(f"{repeated:,} rows repeat the prompt in their responses; the shared turns were taken off")
    if rules.implicit_prompt:
        notes.append("there is no prompt column; the prompt of a pair is what its responses begin with in common")
    return StageResult(
        output=CorpusOutput(
            num_shards=plan.num_shards,
            pairs=report.pairs,
            texts=report.texts,
            aspects=list(aspects),
            aspect_pairs=aspects,
            conversational=rules.conversational,
            rated=sorted(rules.ratings),
            preferred=report.preferred,
            licensed=rules.licensed,
        ),
        rows_in=report.rows,
        rows_out=report.pairs,
        quarantined=sum(bad.values()),
        dropped=report.dropped,
        metrics={
            "aspects": list(aspects),
            "aspect_rows": aspects,
            "quarantine_reasons": bad,
            "conversational": rules.conversational,
            "implicit_prompt": rules.implicit_prompt,
            "repeated_prompts": repeated,
            "conflict": report.conflict,
            "texts": report.texts,
            "shards": plan.num_shards,
            "shards_digest": built.digest,
            **({"licenses": _licenses(report.licenses)} if rules.licensed else {}),
            **({"responses_read": plan.responses[0]} if plan.responses else {}),
        },
        notes=notes,
    )


def _licenses(counts: Counter[str]) -> dict[str, int]:
    """Pairs of each licence, of very many those of the commonest: a column may hold anything."""
    first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_LICENSES]
    others = counts.total() - sum(count for _, count in first)
    return dict(sorted(first)) | ({"other licences": others} if others else {})


STAGE = Stage(
    name="corpus",
    version=6,
    upstream=(),
    settings=settings,
    run=run,
    load=lambda value: CorpusOutput(**value),
    shown=("aspect_rows", "licenses", "quarantine_reasons", "conflict"),
    check=check,
)
