"""The policy of a training of adapters: base and adapters as one plain model."""

from __future__ import annotations

import shutil
from pathlib import Path

from pdray.alignment.checkpoints import model_files

ADAPTER = "adapter_"  # how the names of peft's files begin


def merge_adapters(checkpoint: Path, policy: Path, base: str, dtype: str) -> None:
    """Write base and adapters, added up on the CPU, into a folder that AutoModelForCausalLM loads.

    Args:
        checkpoint: has the adapters and the tokenizer.
        policy: the folder, empty.
        base: model folder that the training started from.
        dtype: of the weights, as they were in training.

    Raises:
        UserError: the base is not whole any more.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from pdray.models.loading import load_weights

    model = load_weights(f"alignment.policy is {base}", base, AutoModelForCausalLM, dtype=getattr(torch, dtype))
    # Adapters may be of a higher precision than their base; the sum is of the base's.
    adapted = peft.PeftModel.from_pretrained(model, str(checkpoint), autocast_adapter_dtype=False)
    adapted.merge_and_unload().save_pretrained(policy)
    for file in model_files(checkpoint):
        if not file.name.startswith(ADAPTER) and not (policy / file.name).exists():
            shutil.copy2(file, policy / file.name)
