"""The form that a corpus has, by its columns, and the rules for its rows that follow."""

from __future__ import annotations

from pdray.config import CorpusConfig
from pdray.corpus.read import RawCorpus
from pdray.corpus.rows import RowRules
from pdray.errors import UserError

REQUIRED = {
    "pairs": ("prompt", "chosen", "rejected", "aspect"),
    "rated pairs": ("prompt", "response_a", "response_b"),
    "rated responses": ("prompt", "response"),
}


PREFIXES = {
    "pairs": ("score_chosen.", "score_rejected."),
    "rated pairs": ("score_a.", "score_b."),
    "rated responses": ("rating.", "score_a.", "score_b."),
}


def form_and_rules(config: CorpusConfig, raw: RawCorpus, seed: int) -> tuple[str, RowRules]:
    """The form of a corpus, a key of :data:`REQUIRED`, and the rules for its rows.

    Raises:
        UserError: a column is missing, or fewer than two aspects are rated.
    """
    form, ratings = rating_columns(config, raw.columns)
    require_columns(config, form, raw.columns)
    return form, RowRules(
        columns={name: value for name, value in config.columns.model_dump().items() if name != "ratings"},
        aspects=tuple(config.aspects) if config.aspects else None,
        ratings=ratings,
        conversational=raw.conversational,
        implicit_prompt=config.columns.prompt not in raw.columns,
        partition_columns=tuple(config.partition_columns),
        seed=seed,
        rating_prefixes=() if form == "rated responses" and config.columns.ratings else PREFIXES[form],
        known_columns=raw.columns,
        licensed=config.columns.license in raw.columns,
    )


def rating_columns(config: CorpusConfig, columns: frozenset[str]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The form of the corpus and the columns of its true ratings, aspect -> user's columns.

    Raises:
        UserError: a rated corpus without ratings, or a listed aspect without its columns.
    """
    prefixes = PREFIXES["pairs" if config.kind == "pairs" else "rated pairs"]
    found = {
        name.removeprefix(prefixes[0]): (name, prefixes[1] + name.removeprefix(prefixes[0]))
        for name in sorted(columns)
        if name.startswith(prefixes[0]) and prefixes[1] + name.removeprefix(prefixes[0]) in columns
    }
    if config.kind == "pairs":
        return "pairs", {name: pair for name, pair in found.items() if not config.aspects or name in config.aspects}
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
            f"{', '.join(sorted(columns)) or 'none (no readable row)'} of the schemas and first rows; name them "
            "score_a.<aspect> and score_b.<aspect>, or rating.<aspect>, or map them in corpus.columns.ratings, and "
            "give the first rows of a JSONL file all of them, null where there is no rating"
        )
    return form, {aspect: ratings[aspect] for aspect in sorted(wanted)}


def require_columns(config: CorpusConfig, form: str, columns: frozenset[str]) -> None:
    """Refuse a corpus without the columns that its form needs.

    Raises:
        UserError: one is not there.
    """
    names = config.columns.model_dump()
    missing = [name for name in REQUIRED[form] if names[name] not in columns]
    # Two responses may have their prompt in what they begin with; a column that the user names has to be there.
    implicit = missing == ["prompt"] and names["prompt"] == "prompt" and form != "rated responses"
    if missing and not implicit:
        raise UserError(absent_columns(config, missing, columns))


def absent_columns(config: CorpusConfig, missing: list[str], columns: frozenset[str]) -> str:
    """That some columns are missing, and which there are."""
    names = config.columns.model_dump()
    said = [f"corpus.columns.{name} is {names[name]!r}, which is not a column of the corpus" for name in missing]
    return "; ".join([*said, f"its columns are: {', '.join(sorted(columns)) or 'none (no readable row)'}"])
