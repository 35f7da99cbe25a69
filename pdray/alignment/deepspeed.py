"""The DeepSpeed configuration of a run, as a pure function of the settings."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pdray.config import AlignmentConfig
from pdray.errors import UserError

# Values that accelerate fills in from the trainer's arguments; here, a second value would contradict the first.
OWNED = {
    "train_batch_size": "alignment.pairs_per_step",
    "train_micro_batch_size_per_gpu": "alignment.batch_size",
    "gradient_accumulation_steps": "alignment.pairs_per_step",
    "bf16": "alignment.dtype",
    "fp16": "alignment.dtype (float32 or bfloat16)",
}


def deepspeed_config(alignment: AlignmentConfig, universal: bool = False) -> dict[str, Any]:
    """The configuration that ``DPOConfig(deepspeed=…)`` gets; ``"auto"`` values are accelerate's to fill in.

    ``alignment.deepspeed`` is merged over it key by key; an optimizer or scheduler of another type replaces
    the whole block, because its parameters have other names.

    Args:
        alignment: the section.
        universal: whether the checkpoint to resume from is a universal one.

    Raises:
        UserError: ``alignment.deepspeed`` sets what another setting of the section decides.
    """
    for key, setting in OWNED.items():
        if key in alignment.deepspeed:
            raise UserError(
                f"alignment.deepspeed.{key} is {alignment.deepspeed[key]!r}, but {setting} decides it; set that instead"
            )
    zero = alignment.deepspeed.get("zero_optimization", {})
    base = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "optimizer": _adamw(torch=not offloads(zero, "offload_optimizer")),
        "zero_optimization": _zero(alignment.zero_stage),
    }
    found = merged(base, alignment.deepspeed)
    return merged(found, {"checkpoint": {"load_universal": True}}) if universal else found


def offloads(zero: dict[str, Any], what: str) -> bool:
    """Whether ``offload_optimizer`` or ``offload_param`` moves anything."""
    return bool((zero.get(what) or {}).get("device", "none") != "none")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, mapping by mapping; a mapping of another ``type`` replaces the old one."""
    result = deepcopy(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("type") in (None, old.get("type")):
            result[key] = merged(old, value)
        else:
            result[key] = deepcopy(value)
    return result


def _adamw(torch: bool) -> dict[str, Any]:
    params: dict[str, Any] = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    if torch:
        # DeepSpeed's own Adam is compiled at first use: for GPUs with nvcc, which few containers have. Torch's
        # goes over all weights of a kind at once (foreach) where it can; only offload needs DeepSpeed's.
        params["torch_adam"] = True
    return {"type": "AdamW", "params": params}


def _zero(stage: int) -> dict[str, Any]:
    if stage == 3:
        # Without it the trainer saves shards only, and no policy that AutoModelForCausalLM loads.
        return {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    return {"stage": stage}
