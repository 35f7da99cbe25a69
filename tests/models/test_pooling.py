"""The pooling that a model folder states, or its architecture has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdray.errors import UserError
from pdray.models.pooling import pooling_of, stated_pooling
from tests.tiny import tiny_encoder, tiny_llama_lm


def state(folder: Path, **config: Any) -> str:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 9}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_a_stated_pooling_is_taken(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    folder = state(tmp_path, **config)
    assert stated_pooling("x", folder) == pooling_of("x", folder) == pooling


@pytest.mark.parametrize(
    "config",
    [{"pooling_mode_max_tokens": True}, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, {}],
)
def test_a_pooling_that_engines_do_not_have_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"by mean, cls or last alone; set proxies.reading to together"):
        stated_pooling("proxies.base_model is x", state(tmp_path, **config))


@pytest.mark.parametrize(("build", "pooling"), [(tiny_encoder, "cls"), (tiny_llama_lm, "last")])
def test_otherwise_the_architecture_decides(tmp_path: Path, build: Callable[[Path], Path], pooling: str) -> None:
    folder = str(build(tmp_path))
    assert stated_pooling("x", folder) is None
    assert pooling_of("x", folder) == pooling
