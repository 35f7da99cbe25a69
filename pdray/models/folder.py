"""What must hold of a model folder before anything is loaded from it; reads files, imports no model library."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pdray.errors import UserError
from pdray.identity import model_files
from pdray.models.apart import has_head, is_apart
from pdray.models.files import read_object
from pdray.models.place import on_this_node
from pdray.models.template import check_template
from pdray.models.vocabulary import check_vocabulary, largest_token
from pdray.models.weights import read_shapes
from pdray.paths import is_closed, not_readable
from pdray.storage import StoragePath

Kind = Literal["backbone", "reward", "policy"]
REWARD_ENDING = "ForSequenceClassification"
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")  # each has a weight of its own at least
MOST_LABELS = 100_000
ADAPTER = "adapter_config.json"
POLICY_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def check_model_folder(setting: str, folder: str, kind: Kind, label: int | None = None) -> None:
    """Refuse a folder that would load as something else than its files say, or not at all.

    Whether the weights are those of the architecture is known only when they are loaded: see
    :mod:`pdray.models.loading`.

    Args:
        setting: name of the setting, for the message.
        folder: the model folder.
        kind: what it has to be: anything with weights, a reward model, or a language model.
        label: the largest label of a reward model that is used; None where it has to have one label and no more.

    Raises:
        UserError: naming the setting, the folder, the rule and the cure.
    """
    name, folder = f"{setting} is {folder}", on_this_node(folder)
    if closed := [path for path in map(str, model_files(Path(folder))) if is_closed(path)]:
        raise UserError(*map(not_readable, closed))
    config = read_config(name, folder)
    _check_kind(name, config, kind)
    if kind == "reward":
        _check_labels(name, num_labels(config), label)
    _refuse_code(name, "config.json", config)
    if (Path(folder) / ADAPTER).exists():
        raise UserError(
            f"{name}, which holds {ADAPTER}: Transformers would put that adapter into the model and pdray would not "
            "know of it; merge the two and save the result (peft's merge_and_unload), or take the adapter's files out"
        )
    tokenizer_config = Path(folder) / "tokenizer_config.json"
    if tokenizer_config.exists():
        _refuse_code(name, tokenizer_config.name, read_object(name, tokenizer_config))
    shapes = read_shapes(name, folder)
    _check_counts(name, config, len(shapes))
    check_vocabulary(name, folder, config, shapes)
    check_template(name, folder)


def is_whole(folder: StoragePath) -> bool:
    """Whether a model folder that a stage wrote still has its config, its weights and its tokenizer.

    Weights are looked at by name and shape; on object storage only whether there are any.
    """
    if not folder.is_local:
        names = folder.sizes()
        return "config.json" in names and any(name.endswith(".safetensors") for name in names)
    try:
        read_config("", folder.uri)
        read_shapes("", folder.uri)
        largest_token("", folder.uri)
    except UserError:
        return False
    return not is_apart(folder.uri) or has_head(folder.uri)


def read_config(name: str, folder: str) -> dict[str, Any]:
    """The config.json of a model folder.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.

    Raises:
        UserError: it cannot be read, or names no ``model_type``.
    """
    config = read_object(name, Path(on_this_node(folder)) / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise UserError(
            f"{name}, whose config.json names no model_type, so that nobody knows what to build; "
            "name a folder that Transformers has saved"
        )
    return config


def _check_kind(name: str, config: dict[str, Any], kind: Kind) -> None:
    named = config.get("architectures") or []
    kinds = [str(item) for item in named] if isinstance(named, list) else [str(named)]
    shown = f"a {', '.join(kinds)}" if kinds else "whose config.json names no architecture"
    # The trainer takes the first architecture for the one to load.
    if kind == "policy" and not (kinds and kinds[0].endswith(POLICY_ENDINGS)):
        raise UserError(f"{name}, {shown}, but a policy is a …ForCausalLM; name a folder that was saved as one")
    if kind != "reward":
        return
    if not any(item.endswith(REWARD_ENDING) for item in kinds):
        raise UserError(
            f"{name}, {shown}, but a reward model is a …{REWARD_ENDING}; name a folder that was saved as one"
        )


def num_labels(config: dict[str, Any]) -> int:
    """Labels of a classifier, from its config.json; Transformers writes them only where there are not two."""
    labels = config.get("id2label")
    count = config.get("num_labels", 2)
    return len(labels) if isinstance(labels, dict) and labels else count if isinstance(count, int) else 0


def _check_labels(name: str, labels: int, label: int | None) -> None:
    if label is None and labels != 1:
        raise UserError(
            f"{name}, whose head has {labels} labels, but a reward is one number; name a model with num_labels 1, or "
            "set proxies.models to {path: FOLDER, labels: {aspect: number}}"
        )
    if label is not None and label >= labels:
        raise UserError(
            f"{name}, whose head has {labels} labels, numbered from 0, but proxies.models.labels asks for label "
            f"{label}; correct the number, or name another model"
        )


def _check_counts(name: str, config: dict[str, Any], num_tensors: int) -> None:
    """Refuse counts that Transformers would go up to before it looks at any weight, however large they are."""
    inner = config.get("text_config")
    for part in [config, *([inner] if isinstance(inner, dict) else [])]:
        for key, most in [*((key, num_tensors) for key in LAYERS), ("num_labels", MOST_LABELS)]:
            count = part.get(key)
            if isinstance(count, int) and count > most:
                raise UserError(
                    f"{name}, whose config.json says {key} {count}, more than its {num_tensors} tensors can be; use "
                    "the config.json that belongs to the weights"
                )


def _refuse_code(name: str, file: str, config: dict[str, Any]) -> None:
    if config.get("auto_map"):
        raise UserError(
            f"{name}, whose {file} asks for Python code of its own (auto_map), and pdray never runs code from a model "
            "folder; remove auto_map from the file if Transformers knows this kind of model without it, or name "
            "another model"
        )
