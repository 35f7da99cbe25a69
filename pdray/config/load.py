"""From YAML to a validated run; every message states the value, the rule and the cure."""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pdray.config.proxies import MODEL_EACH, MULTI_HEAD, MultiHeadModel
from pdray.config.run import RunConfig
from pdray.config.section import Section, section_of
from pdray.config.text import parse_yaml
from pdray.errors import UserError
from pdray.paths import DATA_SUFFIXES, absolute, expand, holds_secret, is_remote, takes_in, without_secret


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply ``--set key=value`` overrides and validate.

    Relative paths are taken from the current folder and made absolute, so that a job on another node reads
    the same files.

    Raises:
        UserError: the file cannot be read, or a value breaks a rule; the message holds the cure.
    """
    try:
        data = parse_yaml(_read_text(str(path)))
    except UserError:
        raise
    except ValueError as error:  # of text that is not UTF-8 as well
        reason = "mend it" if holds_secret(str(error)) else " ".join(str(error).split())  # it quotes the line
        raise UserError(f"{path} is not readable YAML: {reason}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no settings; write a fresh one with: pdray init > {path}")
    return build_config(data, overrides)


def _read_text(path: str) -> str:
    if is_remote(path):  # as `pdray submit` writes it beside a run on object storage
        from pdray.storage import StoragePath

        with contextlib.suppress(FileNotFoundError):
            return StoragePath(path).read_bytes().decode("utf-8")
    elif Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    raise UserError(f"no config file at {path}; write one with: pdray init > run.yaml")


def build_config(data: dict[str, Any], overrides: list[str] | None = None) -> RunConfig:
    """Validate a mapping as :func:`load_config` does, without reading a file."""
    data = copy.deepcopy(data)
    for override in overrides or []:
        _apply_override(data, override)
    _refuse_secrets(data)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        sentences = [_sentence(item) for item in error.errors()] + _wrong_paths(*_paths_of(data))
        raise UserError("\n".join(dict.fromkeys(sentences))) from None
    config = _with_absolute_paths(config)
    _check_paths(config)
    return config


def _refuse_secrets(data: dict[str, Any]) -> None:
    if names := list(dict.fromkeys(_secrets("", data))):
        raise UserError(
            "\n".join(
                f"{name} holds a key or password, which would stand in manifests and logs; take it out and give the "
                "credentials by environment variables or a profile of the storage"
                for name in names
            )
        )


def _secrets(name: str, value: Any) -> Iterator[str]:
    """Names of the settings with a secret in them."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _secrets(f"{name}.{key}".lstrip("."), child)
    elif isinstance(value, list):
        for child in value:
            yield from _secrets(name, child)
    elif isinstance(value, str) and holds_secret(value):
        yield name


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    shown = without_secret(override)
    if not separator or not key or holds_secret(key):
        raise UserError(f"--set {shown} has no value; write it as --set selection.budget=0.1")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"--set {shown} is not a YAML value; quote it, for example --set run='a b'") from None
    *parents, leaf = key.split(".")
    for parent in parents:
        child = data.get(parent)
        if child is None:
            child = data[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {shown}: {parent} is a value, not a section; shorten the key")
        data = child
    # YAML 1.1 reads 1e-5 as text; pydantic then turns it into the number that the field asks for.
    data[leaf] = value


def _field_at(location: tuple[Any, ...]) -> tuple[type[Section], Any]:
    section: type[Section] = RunConfig
    field = None
    for key in location:
        field = section.model_fields.get(str(key))
        section = section_of(field) or section if field else section
    return section, field


def _is_branch(part: Any) -> bool:
    """Whether a part of an error's place is no key, but pydantic's name for one of several types."""
    names = ("str", "constrained-str", MULTI_HEAD, MODEL_EACH)
    return part in names or (isinstance(part, str) and part.startswith("list["))


def _sentence(error: Any) -> str:
    location = tuple(part for part in error["loc"] if not _is_branch(part))
    name = ".".join(str(part) for part in location) or "the configuration"
    section, field = _field_at(location)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    cure = f" ({field.description})" if field is not None and field.description else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(section.model_fields)}"
        return f"{name} is not a setting; {hint}"
    if error["type"] == "missing":
        return f"{name} is missing; set it{cure}"
    if error["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name} is {error['input']!r} but should {message}; change it{cure}"


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    proxies, alignment = config.proxies, config.alignment
    models: Any = proxies.models
    if isinstance(models, MultiHeadModel):
        models = models.model_copy(update={"path": absolute(models.path)})
    elif models is not None:
        models = {aspect: absolute(path) for aspect, path in models.items()}
    base_model = absolute(proxies.base_model) if proxies.base_model else None
    patterns = [absolute(pattern) for pattern in config.corpus.patterns] or None
    hub = config.corpus.hub
    hub = absolute(hub) if hub and Path(hub).is_dir() else hub  # as datasets does: a folder of that name comes first
    return config.model_copy(
        update={
            "run": absolute(config.run),
            "corpus": config.corpus.model_copy(update={"path": patterns, "hub": hub}),
            "proxies": proxies.model_copy(update={"models": models, "base_model": base_model}),
            "alignment": alignment and alignment.model_copy(update={"policy": absolute(alignment.policy)}),
        }
    )


def _check_paths(config: RunConfig) -> None:
    """Refuse paths that lead nowhere, or into each other; all of them at once."""
    wrong = []
    if config.run.startswith("file:"):
        wrong.append(f"run is {config.run}, but a local run folder is a plain path; leave file:// out")
    if is_remote(config.run) and config.alignment:
        wrong.append(
            f"run is {config.run}, but alignment writes its checkpoints to a path that every node mounts; set run to "
            "one, or leave the alignment section out"
        )
    models = config.proxies.folders
    if config.alignment:
        models["alignment.policy"] = config.alignment.policy
    wrong += _wrong_paths(config.run, config.corpus.patterns, models)
    if wrong:
        raise UserError("\n".join(wrong))


def _paths_of(data: dict[str, Any]) -> tuple[str, list[str], dict[str, str]]:
    """The paths in a config that breaks other rules, those that can be told: run, corpus.path and model folders."""

    def section(name: str) -> dict[str, Any]:
        found = data.get(name)
        return found if isinstance(found, dict) else {}

    paths = section("corpus").get("path")
    models = section("proxies").get("models")
    folders = {"proxies.base_model": section("proxies").get("base_model")}
    folders |= {
        f"proxies.models.{name}": folder for name, folder in (models if isinstance(models, dict) else {}).items()
    }
    folders["alignment.policy"] = section("alignment").get("policy")
    patterns = [absolute(path) for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str)]
    run = data.get("run")
    return (
        absolute(run) if isinstance(run, str) else "",
        patterns,
        {name: absolute(folder) for name, folder in folders.items() if isinstance(folder, str)},
    )


def _wrong_paths(run: str, patterns: list[str], folders: dict[str, str]) -> list[str]:
    """A sentence for each path that leads nowhere, and for each corpus that takes the run folder in."""
    wrong = []
    for pattern in patterns:
        if is_remote(pattern):
            continue
        if inside := takes_in(pattern, run):
            wrong.append(
                f"corpus.path {pattern} takes in {inside}, which pdray writes itself; set run to a folder outside of "
                "it, or name the files of the corpus alone, as in corpus.path: data/*.parquet"
            )
        elif not expand(pattern):
            ends = ", ".join(DATA_SUFFIXES)
            wrong.append(f"corpus.path matches no file: {pattern}; correct the path or the glob (of files {ends})")
    for name, path in folders.items():
        if not (Path(path) / "config.json").is_file():
            wrong.append(f"{name} is {path or 'empty'}, which holds no config.json; name a Hugging Face model folder")
    return wrong
