"""Model folders that are damaged: refused in a sentence before anything starts, or when they are loaded, or whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from pdray.engines.engine import EngineOptions
from pdray.engines.transformers_engine import TransformersEngine
from pdray.errors import UserError
from pdray.models.loading import check_weights, load_tokenizer_files, load_weights
from tests.fuzz.case import TALLY, check, memory_limit, time_limit
from tests.fuzz.damage import Damage, damages, remove
from tests.fuzz.world import World, cases

# The folder of the world that is damaged, and the settings that name the damaged copy.
USES = {
    "helpful": ["proxies.models.helpful={model}"],
    "policy": ["alignment.policy={model}"],
    "base": ["proxies={{base_model: {model}, train: head}}"],
}
FILES = ["config.json"] * 3 + ["tokenizer_config.json", "tokenizer.json"] * 2 + ["model.safetensors", "special.json"]


@pytest.mark.parametrize("use", USES)
@cases(70)
@given(harm=st.lists(damages(FILES), min_size=1, max_size=2))
def test_model_folders(world: World, here: Path, use: str, harm: list[Damage]) -> None:
    model = here / "model"
    remove(model)
    shutil.copytree(world.root / use, model)
    for one in harm:
        one.apply(model)
    words = [word for change in USES[use] for word in ("--set", change.format(model=model))]
    if check("model folder", "run", str(world.config), "--dry-run", *words).code:
        return
    with time_limit(), memory_limit():
        try:
            load(use, str(model))
            TALLY["model loaded", "whole"] += 1
        except UserError:
            TALLY["model loaded", "refused"] += 1
        except BaseException:
            TALLY["model loaded", "raised"] += 1
            raise


def load(use: str, model: str) -> None:
    """Load a folder as the stages do.

    Raises:
        UserError: it is not whole.
    """
    load_tokenizer_files(model)
    if use == "helpful":
        rewards = TransformersEngine(model, EngineOptions("transformers", "float32", 32)).score([[2, 8, 3], [2, 3]])
        assert rewards.shape == (2, 1)
    elif use == "policy":
        check_weights("alignment.policy is x", model, AutoModelForCausalLM)
        load_weights("alignment.policy is x", model, AutoModelForCausalLM)
    else:
        load_weights("proxies.base_model is x", model, AutoModelForSequenceClassification, new_head=True)
