"""How a model folder's token states become one embedding, from the files that sentence-transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pdray.errors import UserError
from pdray.models.files import read_object
from pdray.models.place import on_this_node

Pooling = Literal["mean", "cls", "last"]
FILE = Path("1_Pooling") / "config.json"
# Names in 1_Pooling/config.json of what engines can do.
MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def stated_pooling(name: str, folder: str) -> Pooling | None:
    """The pooling that ``1_Pooling/config.json`` asks for; None where there is no such file.

    Args:
        name: how messages call the folder, for example ``proxies.base_model is /models/minilm``.
        folder: the model folder.

    Raises:
        UserError: the file asks for a pooling that engines do not have.
    """
    file = Path(on_this_node(folder)) / FILE
    if not file.is_file():
        return None
    config = read_object(name, file)
    asked = _modes(config)
    if len(asked) != 1 or asked[0] not in get_args(Pooling):
        raise UserError(
            f"{name}, whose {FILE} asks for the pooling {' and '.join(asked) or 'of no kind'}, but embeddings are made "
            "by mean, cls or last alone; set proxies.reading to together, or name another model"
        )
    pooling: Pooling = asked[0]  # type: ignore[assignment]
    return pooling


def pooling_of(name: str, folder: str) -> Pooling:
    """The pooling that a model was trained for.

    A folder that states none is read as its architecture is: masked language models at the first token, the others at
    the last. Arguments and errors are those of :func:`stated_pooling`.
    """
    return stated_pooling(name, folder) or ("cls" if _is_masked(folder) else "last")


def _modes(config: dict[str, Any]) -> list[str]:
    if isinstance(config.get("pooling_mode"), str):
        mode = str(config["pooling_mode"])
        return ["last" if mode == "lasttoken" else mode]
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    return [MODES.get(key, key) for key in asked]


def _is_masked(folder: str) -> bool:
    from transformers import AutoModelForMaskedLM

    from pdray.models.loading import load_config

    return type(load_config(folder)) in AutoModelForMaskedLM._model_mapping
