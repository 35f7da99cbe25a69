"""From YAML to a validated run; every message states the value, the rule and the cure."""

from __future__ import annotations

import contextlib
import copy
import difflib
import os
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pdray.config.corpus import CorpusConfig
from pdray.config.evaluation_paths import evaluation_with_absolute_paths, wrong_evaluation_paths
from pdray.config.proxies import MODEL_EACH, MULTI_HEAD, MultiHeadModel, ProxiesConfig
from pdray.config.run import RunConfig
from pdray.config.secrets import secrets
from pdray.config.section import Section, section_of
from pdray.config.text import MOST_LEVELS, Place, odd_values, parse_yaml
from pdray.errors import UserError
from pdray.paths import (
    DATA_SUFFIXES,
    absolute,
    expand,
    holds_secret,
    is_closed,
    is_inside,
    is_remote,
    takes_in,
    without_secret,
)

HUB = "hf://"  # Arrow opens it
MOST_TOLD = 100  # mistakes that a message lists; nobody makes as many by hand
CLOSED = "which is closed to this user; open it, or name another"


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
    from pdray.storage import StoragePath  # `pdray submit` writes it beside a run on object storage

    try:
        if is_remote(path) or os.path.isfile(path):
            return StoragePath(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); mend that or name another file") from None
    raise UserError(f"no config file at {path or 'an empty path'}; write one with: pdray init > run.yaml")


def build_config(data: dict[str, Any], overrides: list[str] | None = None) -> RunConfig:
    """Validate a mapping as :func:`load_config` does, without reading a file.

    Raises:
        ConfigError: with everything that is wrong, of very much the first :data:`MOST_TOLD`.
    """
    data = copy.deepcopy(data)
    wrong: list[str] = []
    for override in overrides or []:
        try:
            _apply_override(data, override)
        except UserError as error:
            wrong += error.sentences
    odd = [*secrets(data), *odd_values(data)]
    wrong += [f"{_name(place)} {rule}" for place, rule in odd]
    data = _without(data, [place for place, _ in odd])
    config, broken = _validated(data, {str(place[-1]) for place, _ in odd})
    wrong += broken
    if config is not None:
        config = _with_absolute_paths(config)
        wrong += _paths_of_config(config)
        if not wrong:
            return config
    wrong = list(dict.fromkeys(wrong if config else [*wrong, *_wrong_paths(*_paths_of(data))]))
    if len(wrong) > MOST_TOLD:
        wrong = [*wrong[:MOST_TOLD], "the configuration has more that is wrong; mend this first"]
    raise ConfigError(*wrong, sections=_sections(data))


class ConfigError(UserError):
    """Everything that is wrong with a config.

    Attributes:
        sections: those of its parts that are right by themselves, by name; the paths in them are absolute.
    """

    def __init__(self, *sentences: str, sections: dict[str, Any] | None = None) -> None:
        super().__init__(*sentences)
        names = {re.split(r"[.: ]", sentence, maxsplit=1)[0] for sentence in sentences}
        self.sections = {name: value for name, value in (sections or {}).items() if name not in names}

    def rest(self) -> RunConfig:
        """The right sections as a config, in which the others are missing or empty."""
        values: dict[str, Any] = {"corpus": CorpusConfig.model_construct(), "proxies": ProxiesConfig.model_construct()}
        return _with_absolute_paths(RunConfig.model_construct(**values | self.sections))


def _sections(data: dict[str, Any]) -> dict[str, Any]:
    """The sections that are right by themselves; one that may be left out only where it is there."""
    right = {}
    for name, field in RunConfig.model_fields.items():
        section = section_of(field)
        if section and (data.get(name) is not None or field.default is not None):
            with contextlib.suppress(ValidationError):
                right[name] = section.model_validate({} if data.get(name) is None else data[name])
    return right


def _validated(data: dict[str, Any], dropped: set[str]) -> tuple[RunConfig | None, list[str]]:
    """The config, or None and what is wrong with it.

    Args:
        data: without some settings that are wrong already.
        dropped: their names: what is said of these follows from their absence.
    """
    try:
        return RunConfig.model_validate(data), []
    except ValidationError as error:
        errors = error.errors()
    sentences = [_sentence(one) for one in errors[: MOST_TOLD + 1]]
    # Rules between settings are looked at where each of the settings is right by itself: so without the others.
    places = [place for one in errors if len(place := _place(one)) > 1]
    hidden: list[str] = []
    try:
        RunConfig.model_validate(_without(data, places))
    except ValidationError as error:
        hidden = [_sentence(one) for one in error.errors()[: MOST_TOLD + 1] if one["type"] == "value_error"]
    gone = dropped | {str(place[-1]) for place in places}
    return None, [
        *(sentence for sentence in sentences if not _mentions(sentence, dropped)),
        *(sentence for sentence in hidden if not _mentions(sentence, gone)),
    ]


def _mentions(sentence: str, names: set[str]) -> bool:
    # Of thousands of names almost none is a part of the sentence, which is quickly seen.
    return any(name in sentence and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sentence) for name in names)


def _without(data: dict[str, Any], places: list[Place]) -> dict[str, Any]:
    """The settings without some of them."""
    data = copy.deepcopy(data)
    for place in places:
        section: Any = data
        for key in place[:-1]:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(place[-1], None)
    return data


def _name(place: Place) -> str:
    return ".".join(str(part) for part in place)


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
    if len(parents) > MOST_LEVELS:
        raise UserError(f"--set {shown} goes deeper than {MOST_LEVELS} sections; shorten the key")
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


def _place(error: Any) -> Place:
    """Where an error is, by the user's own keys."""
    *parents, last = error["loc"] or [MULTI_HEAD]
    own = [last] if error["type"] == "extra_forbidden" or not _is_branch(last) else []
    return (*(part for part in parents if not _is_branch(part)), *own)


def _sentence(error: Any) -> str:
    location = _place(error)
    name = _name(location) or "the configuration"
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
    proxies, alignment, logprobs = config.proxies, config.alignment, config.logprobs
    evaluation = config.evaluation
    models: Any = proxies.models
    if isinstance(models, MultiHeadModel):
        models = models.model_copy(update={"path": absolute(models.path)})
    elif models is not None:
        models = {aspect: absolute(path) for aspect, path in models.items()}
    base_model = absolute(proxies.base_model) if proxies.base_model else None
    patterns = [absolute(pattern) for pattern in config.corpus.patterns] or None
    hub = config.corpus.hub
    hub = absolute(hub) if hub and os.path.isdir(hub) else hub  # as datasets does: a folder of that name comes first
    return config.model_copy(
        update={
            "run": absolute(config.run),
            "corpus": config.corpus.model_copy(update={"path": patterns, "hub": hub}),
            "proxies": proxies.model_copy(update={"models": models, "base_model": base_model}),
            "logprobs": logprobs
            and logprobs.model_copy(update={name: absolute(folder) for name, folder in logprobs.folders.items()}),
            "alignment": alignment and alignment.model_copy(update={"policy": absolute(alignment.policy)}),
            "evaluation": evaluation and evaluation_with_absolute_paths(evaluation),
        }
    )


def _paths_of_config(config: RunConfig) -> list[str]:
    """A sentence for each path that leads nowhere or into another."""
    wrong = []
    if config.run.startswith("file:"):
        wrong.append(f"run is {config.run}, but a local run folder is a plain path; leave file:// out")
    if is_remote(config.run) and config.alignment:
        wrong.append(
            f"run is {config.run}, but alignment writes its checkpoints to a path that every node mounts; set run to "
            "one, or leave the alignment section out"
        )
    models = config.proxies.folders
    if config.logprobs:
        models |= {f"logprobs.{name}": folder for name, folder in config.logprobs.folders.items()}
    if config.alignment:
        models["alignment.policy"] = config.alignment.policy
    if config.evaluation:
        wrong += wrong_evaluation_paths(config.evaluation)
        models |= {
            f"evaluation.reward_models.{name}": one.path for name, one in config.evaluation.reward_models.items()
        }
    return wrong + _wrong_paths(config.run, config.corpus.patterns, models)


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
    folders |= {f"logprobs.{name}": section("logprobs").get(name) for name in ("policy", "reference")}
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
        try:
            if is_remote(pattern):
                continue
            if inside := takes_in(pattern, run):
                wrong.append(
                    f"corpus.path {pattern} takes in {inside}, which pdray writes itself; set run to a folder outside "
                    "of it, or name the files of the corpus alone, as in corpus.path: data/*.parquet"
                )
            elif not expand(pattern) and is_closed(pattern):
                wrong.append(f"corpus.path is {pattern}, {CLOSED}")
            elif not expand(pattern):
                ends = ", ".join(DATA_SUFFIXES)
                wrong.append(f"corpus.path matches no file: {pattern}; correct the path or the glob (of files {ends})")
        except UserError as error:
            wrong += error.sentences
    for name, path in folders.items():
        if path.startswith(HUB):
            wrong.append(
                f"{name} is {path}, on a hub, where a model changes under its name; download it (hf download), and "
                "name the folder"
            )
        elif not is_remote(path) and is_closed(path):
            wrong.append(f"{name} is {path}, {CLOSED}")
        elif not is_remote(path) and not os.path.isfile(os.path.join(path, "config.json")):
            wrong.append(f"{name} is {path or 'empty'}, which holds no config.json; name a Hugging Face model folder")
        elif run and not is_remote(run) and not is_remote(path) and is_inside(run, path):
            wrong.append(
                f"run is {run}, which lies in the model folder of {name}, {path}; set run to a folder outside of it"
            )
    return wrong
