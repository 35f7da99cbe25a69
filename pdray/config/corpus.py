"""Settings of the corpus stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pdray.config.section import HOW, Count, Name, Section, require_distinct

# Columns of one row, each of which is another thing: of a pair, and of the two forms of rated data.
READ_TOGETHER: dict[str, tuple[tuple[str, ...], ...]] = {
    "pairs": (("prompt", "chosen", "rejected", "aspect"),),
    "rated": (("prompt", "response"), ("prompt", "response_a", "response_b")),
}


class ColumnNames(Section):
    """Names that the corpus columns have in the user's files."""

    pair_id: str = Field("pair_id", description="unique id; made from the content where the column is absent")
    prompt: str = Field("prompt", description="prompt column")
    chosen: str = Field("chosen", description="preferred response (kind: pairs)")
    rejected: str = Field("rejected", description="other response (kind: pairs)")
    aspect: str = Field("aspect", description="the one aspect that labelled the pair (kind: pairs)")
    overall: str = Field(
        "overall", description="overall label, chosen, rejected or equal; read by selection.strategy overall alone"
    )
    source: str = Field("source", description="where the pair comes from, carried along")
    license: str = Field("license", description="licence of the row, carried along where there is one")
    response: str = Field("response", description="response (kind: rated, one row per response)")
    response_a: str = Field("response_a", description="first response (kind: rated, one row per pair)")
    response_b: str = Field("response_b", description="second response (kind: rated, one row per pair)")
    ratings: dict[str, str] = Field(
        default_factory=dict,
        description="aspect -> rating column (kind: rated, one row per response); empty: columns named rating.<aspect>",
    )

    @field_validator("ratings")
    @classmethod
    def _distinct(cls, ratings: dict[str, str]) -> dict[str, str]:
        require_distinct(ratings)
        return ratings


class CorpusConfig(Section):
    """Where the preference pairs come from and what is accepted."""

    kind: Literal["pairs", "rated"] = Field(
        "pairs", description="pairs: one aspect per pair; rated: ratings per aspect, turned into pairs"
    )
    path: Name | Annotated[list[Name], Field(min_length=1)] | None = Field(
        None,
        description="file, folder or glob (parquet, JSONL, .gz/.zst/.bz2), local or s3://…; or a list of them",
        json_schema_extra=HOW,  # what lies there decides, not where it lies
    )
    hub: Name | None = Field(
        None, description="Hugging Face data set to load instead of path; a name is not looked up again once loaded"
    )
    hub_config: str | None = Field(None, description="configuration name of the hub data set")
    hub_split: str = Field("train", description="split of the hub data set")
    columns: ColumnNames = ColumnNames()
    partition_columns: list[str] = Field(
        [], description="columns that stand in folder names, as in aspect=honesty/x.parquet; others there are ignored"
    )
    aspects: list[str] | None = Field(None, description="accepted aspects; null takes those found in the data")
    max_quarantined: float = Field(0.05, ge=0, le=1, description="largest share of rows that may be quarantined")
    texts_per_shard: Count | None = Field(
        None,
        description="distinct texts in a unit of work and of resume; null: 16384 with scores.gpus_per_actor, else 2048",
        json_schema_extra=HOW,
    )

    @field_validator("aspects")
    @classmethod
    def _two_aspects(cls, aspects: list[str] | None) -> list[str] | None:
        if aspects is not None and len(set(aspects)) < 2:
            raise ValueError("preference divergence compares aspects, so list at least two different ones")
        if aspects is not None and len(set(aspects)) != len(aspects):
            raise ValueError("an aspect is listed twice; list each once")
        require_distinct(aspects or [])
        return aspects

    @model_validator(mode="after")
    def _a_column_each(self) -> CorpusConfig:
        ratings = {f"ratings.{aspect}": column for aspect, column in self.columns.ratings.items()}
        for roles in READ_TOGETHER[self.kind]:
            read = {role: getattr(self.columns, role) for role in roles} | (ratings if "response" in roles else {})
            first: dict[str, str] = {}
            for role, column in read.items():
                if (other := first.setdefault(column, role)) != role:
                    raise ValueError(
                        f"columns.{other} and columns.{role} are both the column {column!r}; name one column for each"
                    )
        return self

    @model_validator(mode="after")
    def _one_input(self) -> CorpusConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("set exactly one of path (files) and hub (a data set by name)")
        if self.hub is not None and self.partition_columns:
            raise ValueError("partition_columns stand in the folders of corpus.path, not in a hub's; take them out")
        return self

    @property
    def patterns(self) -> list[str]:
        """The paths as a list; empty for a hub data set."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])
