"""A sequence classifier of which only adapters of low rank and the head are trained."""

from __future__ import annotations

from typing import Any

from pdray.config import LoraConfig
from pdray.errors import UserError


def adapted(model: Any, lora: LoraConfig) -> Any:
    """The model with adapters; everything outside the backbone is trained whole.

    Args:
        model: a sequence classifier, changed in place.
        lora: rank, scale and place of the adapters; there is no dropout, as in training all weights.

    Raises:
        UserError: the model has no such modules, or they cannot have adapters.
    """
    import peft

    parts = {name: part for name, part in model.named_children() if name != model.base_model_prefix}
    head = [name for name, part in parts.items() if next(part.parameters(), None) is not None]
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=0.0,
        modules_to_save=head,
        task_type="SEQ_CLS",
    )
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"proxies.lora.target_modules is {lora.target_modules!r}, which peft refuses for a {type(model).__name__} "
            f"({reason}); name linear layers of the model, or all-linear"
        ) from None


def merged(model: Any) -> Any:
    """A plain model again, with the adapters added to the weights that they belong to."""
    return model.merge_and_unload()
