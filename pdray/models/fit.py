"""Whether weights fit their architecture, and adapters its layers: what Transformers and peft say of names and shapes.

``python -m pdray.models.fit`` is a process of its own for that, so that what starts a run loads no model library. It
reads :class:`Fit`s as JSON and prints sentences as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pdray.cache import cache_path
from pdray.errors import UserError
from pdray.hashing import digest
from pdray.identity import model_identity
from pdray.models.apart import is_apart
from pdray.models.folder import Kind
from pdray.models.loading import check_weights, load_config
from pdray.models.place import on_this_node
from pdray.models.weights import read_shapes

WALL_SECONDS = 600
CLASSES = {
    "policy": "AutoModelForCausalLM",
    "reward": "AutoModelForSequenceClassification",
    "backbone": "AutoModelForSequenceClassification",
}


@dataclass(frozen=True)
class Fit:
    """What has to fit.

    Attributes:
        setting: that names the model folder.
        folder: the model folder.
        kind: what it is loaded as; a backbone gets a new head.
        targets: modules that get adapters, None where there are none.
    """

    setting: str
    folder: str
    kind: Kind
    targets: tuple[str, ...] | str | None = None


def check_fit(models: Iterable[Fit]) -> None:
    """Refuse what a worker would refuse when it loads the models; weights themselves are not read.

    A process that loads Transformers takes some seconds: what fits is remembered in the user's cache.

    Raises:
        UserError: a sentence for each that does not fit. What stops Transformers from looking is told elsewhere.
    """
    marks = {model: mark for model in models if (mark := _mark(model)) is not None and not os.path.exists(mark)}
    wanted = list(marks)
    told = [] if not wanted else misfits(wanted) if "torch" in sys.modules else _misfits_elsewhere(wanted)
    if told:
        raise UserError(*told)
    if told is None:
        return
    for mark in marks.values():
        with contextlib.suppress(OSError):  # a cache that cannot be written is done without
            mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            mark.touch()


def _mark(model: Fit) -> Path | None:
    """The file that says that a model fits; None of a folder that cannot be read."""
    try:
        files = [part for pair in model_identity(model.folder) for part in pair]
    except UserError:
        return None
    packages = [metadata.version(name) for name in ("transformers", "peft")]
    targets = model.targets if isinstance(model.targets, str) else json.dumps(model.targets)
    return cache_path("fits") / digest(model.kind, targets, *packages, *files)


def _misfits_elsewhere(models: list[Fit]) -> list[str] | None:
    """As :func:`misfits`; None where the process fails, as the workers' then will, or takes too long."""
    words = json.dumps([asdict(model) for model in models])
    command = [sys.executable, "-m", "pdray.models.fit"]
    try:
        done = subprocess.run(command, input=words, capture_output=True, text=True, timeout=WALL_SECONDS)
        return list(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def misfits(models: list[Fit]) -> list[str]:
    """A sentence for each model that does not fit."""
    told: list[str] = []
    for model in models:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            try:
                _check(model)
            except UserError as error:
                told += error.sentences
    return told


def _check(model: Fit) -> None:
    import transformers

    if is_apart(on_this_node(model.folder)):  # written by the proxies stage, whose head is no part of the model
        return
    name = f"{model.setting} is {model.folder}"
    try:
        load_config(model.folder)
        read_shapes(name, model.folder)
    except UserError:  # the folder itself is checked by itself
        return
    empty = check_weights(name, model.folder, getattr(transformers, CLASSES[model.kind]), model.kind == "backbone")
    if model.targets is not None:
        check_targets(f"{model.setting.partition('.')[0]}.lora.target_modules", model.targets, empty)


def check_targets(setting: str, targets: tuple[str, ...] | str, model: Any) -> None:
    """Refuse names of modules that peft finds no adapter for in a model, which is changed.

    Raises:
        UserError: with the cure.
    """
    import peft

    named = targets if isinstance(targets, str) else list(targets)
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=named), model, low_cpu_mem_usage=True)
    except (ValueError, re.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{setting} is {named!r}, which peft refuses for a {type(model).__name__} ({reason}); name linear layers "
            "of the model, or all-linear"
        ) from None


def main() -> int:
    """Read from standard input, and print to standard output."""
    print(json.dumps(misfits([Fit(**one) for one in json.load(sys.stdin)])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
