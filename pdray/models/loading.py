"""The one way from a model folder to a tokenizer or a model: no code of the folder's, no pickle, no hub, no silence.

Transformers draws weights that it does not find at random and goes on; here that is an error, but for a new head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pdray.errors import UserError
from pdray.models.place import on_this_node
from pdray.models.weights import read_shapes

FROM_FOLDER: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
WEIGHTS: dict[str, Any] = {**FROM_FOLDER, "use_safetensors": True}
NAMED = 3  # weights that a message names


def load_tokenizer_files(folder: str) -> Any:
    """The tokenizer of a model folder, as Transformers reads it.

    Raises:
        UserError: its files are damaged, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    with _said_plainly(f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(on_this_node(folder), **FROM_FOLDER)


def load_config(folder: str, **changes: Any) -> Any:
    """The configuration of a model folder, with some values replaced.

    Raises:
        UserError: Transformers does not know this kind of model.
    """
    from transformers import AutoConfig

    with _said_plainly(f"the config.json in {folder}"):
        return AutoConfig.from_pretrained(on_this_node(folder), **changes, **FROM_FOLDER)


def load_weights(name: str, folder: str, model_class: Any, *, new_head: bool = False, **options: Any) -> Any:
    """A model with the weights of a folder, all of them.

    Args:
        name: how messages call the folder, for example ``proxies.base_model is /models/llama``.
        folder: the model folder.
        model_class: one of Transformers' ``AutoModelFor…``.
        new_head: whether a classification head that the folder lacks, or has in another size, may be drawn at random.
        options: of ``from_pretrained``.

    Raises:
        UserError: the folder lacks weights of this kind of model, or has them in another size.
    """
    with _said_plainly(name), quiet_loading():
        model, report = model_class.from_pretrained(
            on_this_node(folder), ignore_mismatched_sizes=True, output_loading_info=True, **options, **WEIGHTS
        )
    _require_weights(name, model, report, new_head)
    return model


def check_weights(name: str, folder: str, model_class: Any, new_head: bool = False) -> Any:
    """Refuse a folder that :func:`load_weights` would refuse, from names and shapes alone: no weight is read.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.
        model_class: one of Transformers' ``AutoModelFor…``.
        new_head: as for :func:`load_weights`.

    Returns:
        the model on the device ``meta``, where tensors have a shape and nothing more.

    Raises:
        UserError: as :func:`load_weights`; also where Transformers has no such class for the folder's kind of model.
    """
    import torch

    config = load_config(folder)
    if type(config) not in model_class._model_mapping:
        raise UserError(f"{name}, a model of type {config.model_type}, which {model_class.__name__} does not know")
    empty = {tensor: torch.empty(shape, device="meta") for tensor, shape in read_shapes(name, folder).items()}
    with _said_plainly(name), quiet_loading():
        model, report = model_class._model_mapping[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=empty,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _require_weights(name, model, report, new_head)
    return model


def _require_weights(name: str, model: Any, report: dict[str, Any], new_head: bool) -> None:
    missing = set(report["missing_keys"])
    sizes = {tensor: (tuple(found), tuple(expected)) for tensor, found, expected in report["mismatched_keys"]}
    if new_head:
        head = {tensor for tensor, _ in model.named_parameters() if _is_head(model, tensor)}
        pooler = {
            tensor for tensor, _ in model.named_parameters() if tensor.startswith(f"{model.base_model_prefix}.pooler.")
        }
        missing -= head | (pooler if pooler <= missing else set())
        sizes = {tensor: pair for tensor, pair in sizes.items() if tensor not in head}
    if missing:
        raise UserError(
            f"{name}, which lacks {len(missing)} weights of a {type(model).__name__} ({_first(missing)}); they would "
            "be random numbers: name a whole model of that kind, or copy its files again"
        )
    if sizes:
        tensor, (found, expected) = min(sizes.items())
        raise UserError(
            f"{name}, which holds {len(sizes)} weights of another size than its config.json says "
            f"({_first(set(sizes))}: {tensor} is {found} and should be {expected}); "
            "use the config.json that belongs to the weights"
        )


def _is_head(model: Any, tensor: str) -> bool:
    return not tensor.startswith(f"{model.base_model_prefix}.")


def _first(tensors: set[str]) -> str:
    return ", ".join(sorted(tensors)[:NAMED]) + (", …" if len(tensors) > NAMED else "")


@contextlib.contextmanager
def _said_plainly(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of any type: what is wrong in the files shows in any part of the libraries
        if "OutOfMemory" in type(error).__name__:
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: Transformers cannot load it ({type(error).__name__}: {reason}); name a folder that it has saved"
        ) from None


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keeps Transformers from listing every weight that it draws anew; what is not meant to be new is an error here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
