"""What a pass tells of each of its models."""

from pdray.engines.shards import PassResult
from pdray.shards import Marker


def test_tokens_of_a_model_are_whole() -> None:
    """``pdray show`` prints what is no whole number with three decimals."""
    facts = [
        {"model_tokens": [3, 140_000], "model_seconds": [0.25, 1.0]},
        {"model_tokens": [4, 89], "model_seconds": [1, 2.5]},
    ]
    markers = {shard: Marker(shard, "", {}, 0, one) for shard, one in enumerate(facts)}
    result = PassResult(markers, 1.0, 4, 140_096, None, 1)
    tokens, seconds = (result.model_total(fact, 1) for fact in ("model_tokens", "model_seconds"))
    assert (tokens, seconds) == (140_089, 3.5)
    assert isinstance(tokens, int)
