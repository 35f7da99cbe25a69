"""What flows between the stages: the Arrow schema of every table and the typed hand-over of every stage.

A stage reads what an earlier one wrote through these alone, never through what is shown to a user.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pdray.paths import is_remote

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

# Tables; each has one file per shard (see pdray.shards).
PROMPTS = "prompts"
TEXTS = "texts"
PAIRS = "pairs"
KEPT = "kept"
FEATURES = "features"

UNLICENSED = "unknown"  # what the licence of a pair is called that names none


def text_type(conversational: bool) -> pa.DataType:
    """Type of prompts and responses: a string, or a list of {role, content}."""
    return MESSAGES if conversational else pa.string()


def _never_null(name: str, kind: pa.DataType) -> pa.Field:
    """A column that is decoded in half the time, since nobody has to look where a value is missing."""
    return pa.field(name, kind, nullable=False)


def prompts_schema(conversational: bool) -> pa.Schema:
    """``corpus/prompts``: every distinct prompt of a shard once, sorted."""
    return pa.schema([("prompt", text_type(conversational))])


def texts_schema(conversational: bool) -> pa.Schema:
    """``corpus/texts``: every distinct (prompt, response) of a shard once, sorted by prompt, then response.

    ``prompt_row`` is the row number in the prompts of the same shard. A text's own row number in its shard is its name:
    pairs and rewards refer to it.
    """
    return pa.schema([_never_null("prompt_row", pa.int32()), ("response", text_type(conversational))])


def pairs_schema(rated: list[str], licensed: bool = False) -> pa.Schema:
    """``corpus/pairs``: the pairs of a shard, sorted by ``pair_id``.

    ``chosen_row`` and ``rejected_row`` are row numbers in the texts of the same shard. ``conflict`` is null where it is
    not known, and absent, like the true ratings, in a corpus without ratings.

    Args:
        rated: aspects with true ratings, sorted.
        licensed: whether the corpus has a column of licences.
    """
    ratings = [(f"score_{side}.{aspect}", pa.float64()) for aspect in rated for side in ("chosen", "rejected")]
    return pa.schema(
        [
            _never_null("pair_id", pa.string()),
            _never_null("aspect", pa.string()),
            _never_null("chosen_row", pa.int32()),
            _never_null("rejected_row", pa.int32()),
            ("overall", pa.string()),
            ("source", pa.string()),
            *([("license", pa.string())] if licensed else []),
            *ratings,
            *([("conflict", pa.bool_())] if rated else []),
        ]
    )


def dictionary_columns(tables: dict[str, pa.Table]) -> list[str]:
    """Leaves of the corpus's tables that a dictionary makes smaller: all but ids and what a text says.

    These do not repeat inside a shard. A dictionary of them would be given up on after a MiB, of every row group.
    """
    narrow = [name for table in tables.values() for name in table.column_names]
    roles = [f"{name}.list.element.role" for name in ("prompt", "response")]
    return sorted({*narrow, *roles} - {"pair_id", "prompt", "response"})


def scores_schema(aspects: list[str]) -> pa.Schema:
    """``scores/texts``: row-aligned with ``corpus/texts``.

    ``reward.<aspect>`` is NaN where a text could not be scored; ``num_tokens`` counts the whole response;
    ``truncated`` says whether anything was cut.
    """
    rewards = [_never_null(f"reward.{aspect}", pa.float32()) for aspect in aspects]
    return pa.schema([*rewards, _never_null("num_tokens", pa.int32()), _never_null("truncated", pa.bool_())])


def logprobs_schema(models: list[str]) -> pa.Schema:
    """``logprobs/texts``: row-aligned with ``corpus/texts``.

    ``logp.<model>`` is the log-probability of the response given its prompt, in nats, summed over ``num_tokens`` tokens
    of it; NaN where a text could not be read. ``truncated`` says whether anything was cut.

    Args:
        models: ``policy``, and ``reference`` where it is another model.
    """
    logps = [(f"logp.{model}", pa.float32()) for model in models]
    return pa.schema([*logps, ("num_tokens", pa.int32()), ("truncated", pa.bool_())])


def fold_logps_schema() -> pa.Schema:
    """``crossfit/policy-*/texts``: what one policy gives to the texts of the fold that it did not see.

    ``row`` is the row number in ``corpus/texts``, ascending; ``logp`` as in :func:`logprobs_schema`.
    """
    return pa.schema([("row", pa.int32()), ("logp", pa.float32())])


def crossfit_schema() -> pa.Schema:
    """``crossfit/pairs``: row-aligned with ``corpus/pairs``.

    ``loss`` is that of DPO under policies that saw no pair of the prompt, the mean over them; NaN where a text could
    not be read.
    """
    return pa.schema([("pair_id", pa.string()), ("loss", pa.float64())])


def selection_schema(aspects: list[str]) -> pa.Schema:
    """``selection/pairs``: row-aligned with ``corpus/pairs``.

    ``pd`` is NaN where a needed reward is; ``margin.<aspect>`` is scaled to [−1, 1], null for the pair's own aspect and
    NaN where it is not known.
    """
    margins = [(f"margin.{aspect}", pa.float32()) for aspect in aspects]
    return pa.schema([("pair_id", pa.string()), ("pd", pa.float64()), ("kept", pa.bool_()), *margins])


def kept_schema(conversational: bool) -> pa.Schema:
    """``selection/kept``: the kept pairs with their text, TRL's preference format, sorted by ``pair_id``."""
    texts = [(name, text_type(conversational)) for name in ("prompt", "chosen", "rejected")]
    return pa.schema([("pair_id", pa.string()), *texts, ("aspect", pa.string())])


def features_schema(num_features: int) -> pa.Schema:
    """``proxies/features``: what the trained layers of the frozen proxies read, for some texts of a shard.

    Where two ways of reading were compared, the features of both stand side by side.

    ``row`` is the row number in ``corpus/texts``, ascending; ``num_tokens`` and ``truncated`` are those of
    ``scores/texts``.

    Args:
        num_features: H.
    """
    return pa.schema(
        [
            ("row", pa.int32()),
            ("feature", pa.list_(pa.float32(), num_features)),
            ("num_tokens", pa.int32()),
            ("truncated", pa.bool_()),
        ]
    )


# The input of alignment: the tokens of every kept pair that is trained on, one Arrow stream per shard. A response never
# holds its prompt.
TOKENISED = pa.schema([(name, pa.list_(pa.int32())) for name in ("prompt_ids", "chosen_ids", "rejected_ids")])

# Row-aligned with it, in the shard's marked table: a seeded hash of the pair id, a hash of the pair's tokens, how many
# tokens prompt and longer response have together, and κ and Δφ of DFPO.
DFPO = [("kappa", pa.float32()), ("divergence", pa.float32())]
INPUT = pa.schema([("order", pa.uint64()), ("key", pa.uint64()), ("tokens", pa.int32()), *DFPO])

# The same for all shards in the order of training; ``row`` counts the rows of all shards, one after the other.
ORDER = pa.schema([("row", pa.int64()), ("key", pa.uint64()), ("tokens", pa.int32()), *DFPO])

# What the untouched policy gives to the tokens of each response, added up, by the hash of the pair's tokens; in nats.
REFERENCE = pa.schema([("key", pa.uint64()), ("chosen", pa.float32()), ("rejected", pa.float32())])

RANKED = pa.schema([("pair_id", pa.string()), ("pd", pa.float64()), ("rank", pa.int64())])


@dataclass(frozen=True)
class CorpusOutput:
    """What the corpus hands over.

    Attributes:
        num_shards: S.
        pairs: pairs in all shards.
        texts: distinct texts in all shards.
        aspects: the aspects that label pairs, sorted.
        aspect_pairs: pairs of each aspect.
        conversational: whether texts are lists of messages.
        rated: aspects with true ratings, sorted.
        preferred: pairs whose overall label prefers one of their responses.
        licensed: whether the pairs have a licence each.
    """

    num_shards: int
    pairs: int
    texts: int
    aspects: list[str]
    aspect_pairs: dict[str, int]
    conversational: bool
    rated: list[str] = field(default_factory=list)
    preferred: int = 0
    licensed: bool = False


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier and the aspect of each label of its head.

    Attributes:
        path: of its folder, below the run folder, or absolute for one that the user brought.
        aspects: of its labels, in the order of its head; None for a label that no pair needs.
        head: name of its final linear layer in the safetensors file, where there are ``features``; None where a file
            of its own holds the head (see :mod:`pdray.models.apart`).
        dense: name of the dense layer with tanh before it, which reads the ``features``; None where the final layer
            reads them.
        first_feature: where those that it reads begin among the features of a text.
    """

    path: str
    aspects: list[str | None]
    head: str | None = None
    dense: str | None = None
    first_feature: int = 0


@dataclass(frozen=True)
class ProxiesOutput:
    """What the proxies stage hands over.

    Attributes:
        models: together they have every aspect of the corpus once, and ``unified`` where there is a reward model of all
            aspects together.
        length_penalty: of each, ρ, reward per token that the margin subtracts (eq. 17).
        features: H where the stage wrote ``features`` (see :func:`features_schema`), some or all of which the trained
            layers of its only model read.
        num_shards: S of the features, as in the corpus; 0 without features.
    """

    models: list[RewardModel]
    length_penalty: dict[str, float]
    features: int | None = None
    num_shards: int = 0

    @staticmethod
    def load(value: dict[str, Any]) -> ProxiesOutput:
        """From JSON."""
        return ProxiesOutput(**value | {"models": [RewardModel(**model) for model in value["models"]]})


@dataclass(frozen=True)
class ScoresOutput:
    """What scoring hands over.

    Attributes:
        num_shards: S, as in the corpus.
        aspects: of the rewards, sorted; ``unified`` among them where there is such a model.
        texts: rows in all shards.
    """

    num_shards: int
    aspects: list[str]
    texts: int


@dataclass(frozen=True)
class LogprobsOutput:
    """What the log-probabilities hand over.

    Attributes:
        num_shards: S, as in the corpus.
        models: ``policy``, and ``reference`` where it is another model.
        texts: rows in all shards.
    """

    num_shards: int
    models: list[str]
    texts: int


@dataclass(frozen=True)
class CrossfitOutput:
    """What the cross-fitted trainings hand over.

    Attributes:
        num_shards: S, as in the corpus.
        pairs: rows in all shards.
    """

    num_shards: int
    pairs: int


@dataclass(frozen=True)
class SelectionOutput:
    """What the selection hands over.

    Attributes:
        num_shards: S, as in the corpus.
        kept: pairs kept.
        conversational: whether texts are lists of messages.
        weights: aspect -> weight of its margin in the divergence, of all κ aspects; 1 for each is the paper's.
    """

    num_shards: int
    kept: int
    conversational: bool
    weights: dict[str, float]


@dataclass(frozen=True)
class AlignmentOutput:
    """What alignment hands over.

    Attributes:
        policy: folder of the trained policy, below the run folder.
    """

    policy: str


@dataclass(frozen=True)
class EvaluationOutput:
    """What the evaluation hands over.

    Attributes:
        pairs: held-out pairs that were judged.
    """

    pairs: int


Output = (
    CorpusOutput
    | ProxiesOutput
    | ScoresOutput
    | LogprobsOutput
    | CrossfitOutput
    | SelectionOutput
    | AlignmentOutput
    | EvaluationOutput
)


def to_json(output: Output) -> dict[str, Any]:
    """A hand-over for the manifest."""
    return asdict(output)


def check_types(output: Output) -> None:
    """Refuse a hand-over whose parts are not of their types: it may come from a file that anything happened to.

    Raises:
        ValueError: a part is of another type.
    """
    from pydantic import TypeAdapter

    TypeAdapter(type(output)).validate_json(json.dumps(asdict(output)), strict=True)


def model_folders(output: Output) -> list[str]:
    """The model folders below the run folder that a hand-over names."""
    models = output.models if isinstance(output, ProxiesOutput) else []
    policies = [output.policy] if isinstance(output, AlignmentOutput) else []
    paths = [model.path for model in models] + policies
    return [path for path in paths if not is_remote(path) and not path.startswith("/")]
