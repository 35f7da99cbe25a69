"""The corpus stage: read, check, set bad rows aside, write the pairs.

    corpus-<hash8>/
      pairs/*.parquet        the corpus schema of DESIGN, and ``conflict`` where there are true ratings
      quarantine/*.jsonl     one object per bad row: reason, file, row

Blocks are checked by Ray Data; what needs the whole corpus (duplicate ids, rating spans) is settled from 64-bit
hashes and extremes that each block reports. Text is shuffled in one case only: a row per rated response, where the
responses of a prompt have to meet.
"""

from __future__ import annotations

from collections import Counter as Tally
from pathlib import Path
from typing import Any, NamedTuple

from pdray.config import CorpusConfig, RunConfig, fingerprinted
from pdray.corpus import blocks
from pdray.corpus.check import PROMPT_KEY, bad_responses, check_pairs, check_responses, pair_responses
from pdray.corpus.files import input_identity
from pdray.corpus.read import RawCorpus, open_corpus
from pdray.corpus.rows import DROPPED, NO_PROMPT, RowRules
from pdray.errors import UserError, user_errors
from pdray.progress import Counter
from pdray.stages import StageContext, StageResult
from pdray.store import file_identity

LISTED = 5  # reasons in a message; all of them are in the quarantine
REQUIRED = {
    "pairs": ("prompt", "chosen", "rejected", "aspect"),
    "rated pairs": ("prompt", "response_a", "response_b"),
    "rated responses": ("prompt", "response"),
}


def settings(config: RunConfig) -> dict[str, Any]:
    """What decides the corpus: its section, the seed and the identity of the input files.

    Of a data set on a hub nothing is known without a network but its name.
    """
    files = input_identity(config.corpus.patterns)
    if config.corpus.hub is not None and Path(config.corpus.hub).is_dir():
        files = [file_identity(path) for path in sorted(Path(config.corpus.hub).rglob("*")) if path.is_file()]
    return fingerprinted(config.corpus) | {"seed": config.seed, "files": files}


def run(ctx: StageContext) -> StageResult:
    """Build the corpus.

    Raises:
        UserError: a column is missing, fewer than two aspects are found, or too many rows are bad.
    """
    config = ctx.config.corpus
    raw = open_corpus(config)
    form, ratings = rating_columns(config, raw.columns)
    _require_columns(config, form, raw.columns)
    rules = RowRules(
        columns={name: value for name, value in config.columns.model_dump().items() if name != "ratings"},
        aspects=tuple(config.aspects) if config.aspects else None,
        ratings=ratings,
        conversational=raw.conversational,
        implicit_prompt=config.columns.prompt not in raw.columns,
        partition_columns=tuple(config.partition_columns),
        seed=ctx.config.seed,
    )
    with user_errors(), ctx.progress.counting("checking rows") as counter:
        datasets, responses = _check(raw, form, rules, counter)
        checked = blocks.collect(datasets)
    report = blocks.write(checked, rules, ctx.folder)
    if report.reasons[NO_PROMPT] > report.rows / 2:  # a prompt column was forgotten, or has another name
        raise UserError(
            f"{_absent(config, ['prompt'], raw.columns)}; and in {report.reasons[NO_PROMPT]:,} of {report.rows:,} rows "
            "the responses share no beginning that could be the prompt"
        )
    _refuse_if_bad(config, report, report.rows if responses is None else responses.read)
    return _result(report, rules, responses)


def rating_columns(config: CorpusConfig, columns: frozenset[str]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The form of the corpus and the columns of its true ratings, aspect -> user's columns.

    Raises:
        UserError: a rated corpus without ratings, or a listed aspect without its columns.
    """
    prefixes = ("score_chosen.", "score_rejected.") if config.kind == "pairs" else ("score_a.", "score_b.")
    found = {
        name.removeprefix(prefixes[0]): (name, prefixes[1] + name.removeprefix(prefixes[0]))
        for name in sorted(columns)
        if name.startswith(prefixes[0]) and prefixes[1] + name.removeprefix(prefixes[0]) in columns
    }
    if config.kind == "pairs":
        return "pairs", dict(found)
    form = "rated pairs" if found else "rated responses"
    ratings: dict[str, tuple[str, ...]] = dict(found)
    if not found:
        named = config.columns.ratings or {
            name.removeprefix("rating."): name for name in sorted(columns) if name.startswith("rating.")
        }
        ratings = {aspect: (column,) for aspect, column in named.items()}
    wanted = config.aspects or list(ratings)
    missing = [aspect for aspect in wanted if not set(ratings.get(aspect, ("",))) <= columns]
    if missing or len(wanted) < 2:
        raise UserError(
            f"corpus.kind is rated but the ratings of {', '.join(missing) or 'two aspects'} are not among the columns "
            f"{', '.join(sorted(columns))}; name them score_a.<aspect> and score_b.<aspect>, or rating.<aspect>, "
            "or map them in corpus.columns.ratings"
        )
    return form, {aspect: ratings[aspect] for aspect in sorted(wanted)}


def _require_columns(config: CorpusConfig, form: str, columns: frozenset[str]) -> None:
    names = config.columns.model_dump()
    missing = [name for name in REQUIRED[form] if names[name] not in columns]
    # Two responses may have their prompt in what they begin with; a column that the user names has to be there.
    implicit = missing == ["prompt"] and names["prompt"] == "prompt" and form != "rated responses"
    if missing and not implicit:
        raise UserError(_absent(config, missing, columns))


def _absent(config: CorpusConfig, missing: list[str], columns: frozenset[str]) -> str:
    names = config.columns.model_dump()
    said = [f"corpus.columns.{name} is {names[name]!r}, which is not a column of the corpus" for name in missing]
    return "; ".join([*said, f"its columns are: {', '.join(sorted(columns)) or 'none (no readable row)'}"])


class Responses(NamedTuple):
    """Counts of a corpus with one row per response: rows read, and those that repeat their prompt."""

    read: int
    repeated: int


def _check(raw: RawCorpus, form: str, rules: RowRules, counter: Counter) -> tuple[list[Any], Responses | None]:
    """Data sets of checked rows, and the counts of responses where rows are responses."""
    if form != "rated responses":
        checked = [
            dataset.map_batches(
                check_pairs,
                batch_format="pyarrow",
                fn_kwargs={"rules": rules, "rated": form == "rated pairs", "counter": counter},
            )
            for dataset in raw.datasets
        ]
        return checked, None
    responses = [
        dataset.map_batches(check_responses, batch_format="pyarrow", fn_kwargs={"rules": rules, "counter": counter})
        for dataset in raw.datasets
    ]
    # A union of one is refused by Ray.
    merged = (responses[0].union(*responses[1:]) if len(responses) > 1 else responses[0]).materialize()
    pairs = (
        merged.filter(expr=_is_good())
        .groupby(PROMPT_KEY)
        .map_groups(pair_responses, batch_format="pyarrow", fn_kwargs={"rules": rules})
    )
    bad = merged.map_batches(bad_responses, batch_format="pyarrow", fn_kwargs={"rules": rules})
    return [pairs, bad], Responses(merged.count(), merged.sum("repeated_prompt") or 0)


def _is_good() -> Any:
    from ray.data.expressions import col

    return col("reason").is_null()


def _refuse_if_bad(config: CorpusConfig, report: blocks.Report, rows_read: int) -> None:
    bad = report.rows - report.good - sum(report.reasons[reason] for reason in DROPPED)
    reasons = [item for item in report.reasons.most_common() if item[0] not in DROPPED][:LISTED]
    listing = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
    if rows_read == 0:
        raise UserError("the corpus holds no rows; check corpus.path")
    if bad > config.max_quarantined * rows_read:
        raise UserError(
            f"{bad:,} of {rows_read:,} rows are bad ({listing}), more than corpus.max_quarantined "
            f"({config.max_quarantined}) allows; they stand in {report.folder / 'quarantine'}: mend them or raise it"
        )
    if report.good == 0:
        every = ", ".join(f"{count:,} {reason}" for reason, count in report.reasons.most_common(LISTED))
        raise UserError(f"none of {rows_read:,} rows gave a pair ({every}); give pairs that can be told apart")
    if len(report.aspects) < 2:
        raise UserError(
            f"the corpus has {len(report.aspects)} aspect ({', '.join(report.aspects)}); preference divergence "
            "compares aspects, so give pairs labelled by at least two"
        )


def _result(report: blocks.Report, rules: RowRules, responses: Responses | None) -> StageResult:
    reasons: Tally[str] = Tally(report.reasons)
    dropped = {reason: reasons.pop(reason) for reason in DROPPED if reason in reasons}
    notes = [f"{count:,} rows quarantined: {reason}" for reason, count in reasons.most_common()]
    repeated = report.repeated if responses is None else responses.repeated
    if repeated:
        notes.append(f"{repeated:,} rows repeat the prompt in their responses; the shared turns were taken off")
    if rules.implicit_prompt:
        notes.append("there is no prompt column; the prompt of a pair is what its responses begin with in common")
    return StageResult(
        rows_in=report.rows,
        rows_out=report.good,
        quarantined=sum(reasons.values()),
        dropped=dropped,
        metrics={
            "aspects": sorted(report.aspects),
            "aspect_rows": dict(sorted(report.aspects.items())),
            "quarantine_reasons": dict(sorted(reasons.items())),
            "conversational": rules.conversational,
            "implicit_prompt": rules.implicit_prompt,
            "repeated_prompts": repeated,
            "conflict": report.conflict,
            **({} if responses is None else {"responses_read": responses.read}),
        },
        notes=notes,
    )
