"""Names and shapes of the weights in a model folder, from the headers of its safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

from pdray.errors import UserError
from pdray.models.place import on_this_node

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

Shapes = dict[str, tuple[int, ...]]


def read_shapes(name: str, folder: str) -> Shapes:
    """Shape of every tensor in a model folder; no tensor is read.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.

    Raises:
        UserError: there are no safetensors weights, a file of them is missing or damaged, or it lacks tensors that the
            index promises.
    """
    root = Path(on_this_node(folder))
    if (root / SINGLE).is_file():
        shapes = read_header(name, root / SINGLE)
    elif (root / INDEX).is_file():
        shapes = _read_shards(name, root)
    else:
        raise UserError(_no_weights(name, root))
    if not shapes:
        raise UserError(f"{name}, whose safetensors files hold no tensor; copy them again from where they come from")
    return shapes


def _no_weights(name: str, root: Path) -> str:
    pickled = sorted(path.name for path in root.iterdir() if path.suffix in PICKLED)
    if pickled:
        return (
            f"{name}, whose only weights are pickled ({pickled[0]}), a format that can run code when it is read; "
            "load the model once where you trust it and save it with save_pretrained, which writes safetensors"
        )
    return (
        f"{name}, which holds no weights: neither {SINGLE} nor {INDEX}; copy them there, or name the folder that "
        "save_pretrained wrote"
    )


def _read_shards(name: str, root: Path) -> Shapes:
    try:
        index = json.loads((root / INDEX).read_text(encoding="utf-8"))
        where = {str(tensor): str(file) for tensor, file in index["weight_map"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{name}, whose {INDEX} holds no readable weight_map; copy it again from where the model comes from"
        ) from None
    files = sorted(set(where.values()))
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise UserError(
            f"{name}, which lacks {len(missing)} of the {len(files)} files that {INDEX} names, the first {missing[0]}; "
            "copy them there"
        )
    shapes: Shapes = {}
    for file in files:
        shapes |= read_header(name, root / file)
    lost = sorted(where.keys() - shapes.keys())
    if lost:
        raise UserError(
            f"{name}, whose files lack {len(lost)} weights that {INDEX} names, the first {lost[0]}; copy them again "
            "from where the model comes from"
        )
    return shapes


def read_header(name: str, path: Path) -> Shapes:
    """Shape of every tensor in a safetensors file.

    Raises:
        UserError: it is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {tensor: tuple(file.get_slice(tensor).get_shape()) for tensor in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{name}, whose {path.name} is damaged or cut off ({error}); copy it again from where the model comes from"
        ) from None
