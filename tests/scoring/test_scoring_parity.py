"""The verdict on a comparison, and errors on their way back from workers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pdray.errors import UserError, user_errors
from pdray.scoring.parity import _error, require_parity


def parity(rewards: list[float], reference: list[float]) -> pa.Table:
    values = np.array(rewards, np.float32), np.array(reference, np.float32)
    return pa.table(
        {
            "pair_id": ["p1", "p1", "p2", "p2"],
            "response": ["chosen", "rejected"] * 2,
            "aspect": ["tone"] * 4,
            "reward": values[0],
            "reference": values[1],
            "error": _error(*values),
        }
    )


def test_the_largest_error_within_the_tolerance() -> None:
    table = parity([1.0, 2.0, 3.0, 4.0], [1.0, 2.0005, 3.0, 3.9999])
    assert require_parity(table, 1e-3, "vllm", "float32") == pytest.approx(5e-4, rel=1e-2)


def test_the_worst_text_is_named_with_both_values_and_the_cure() -> None:
    table = parity([1.0, 2.0, 3.0, 0.75], [1.0, 2.5, 3.0, -1.25])
    with pytest.raises(UserError) as error:
        require_parity(table, 1e-3, "vllm", "float32")
    assert str(error.value) == (
        "vllm in float32 and Transformers disagree: the rejected response of pair p2 gets 0.75 for tone from vllm and "
        "-1.25 from Transformers in float32, 2 apart where scores.parity_tolerance is 0.001; set scores.engine to "
        "transformers, or raise scores.parity_tolerance if you accept it"
    )
    with pytest.raises(UserError, match=r"raise scores.parity_tolerance if that is rounding, or set scores.dtype to f"):
        require_parity(table, 1e-3, "vllm", "bfloat16")
    with pytest.raises(UserError, match=r"tolerance is 0.001; raise scores.parity_tolerance if you accept it$"):
        require_parity(table, 1e-3, "transformers", "float32")


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_only_one_of_both_finds_finite_is_the_worst(reward: float) -> None:
    with pytest.raises(UserError, match="rejected response of pair p1"):
        require_parity(parity([1.0, reward, 3.0, 9.0], [1.0, 2.0, 3.0, 4.0]), 100, "vllm", "float32")
    same = parity([1.0, reward, 3.0, 4.0], [1.0, reward, 3.0, 4.0])
    assert require_parity(same, 1e-9, "vllm", "float32") == 0


def test_a_users_error_comes_out_of_its_wrappings() -> None:
    with pytest.raises(UserError, match=r"^set it$"), user_errors():
        try:
            raise UserError("set it")
        except UserError as cause:
            raise RuntimeError("task failed") from cause
    with pytest.raises(KeyError), user_errors():
        raise KeyError("ours")
