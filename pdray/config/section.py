"""What every block of the configuration is made of.

A field marked with :data:`HOW` says how a result is computed and never what it is: it stays out of the
stage fingerprints, so that changing it reuses finished stages.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

HOW: dict[str, Any] = {"fingerprint": False}

Share = Annotated[float, Field(gt=0, le=1)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Count = Annotated[int, Field(ge=1)]
Epochs = Annotated[float, Field(gt=0, le=1000)]  # passes over pairs; more is a slip, and soon no number of steps
Name = Annotated[str, Field(min_length=1)]  # of a file, a folder or a data set: the empty one would be this folder


class Section(BaseModel):
    """A block of the YAML: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, data: Any) -> Any:
        """A section whose lines are all comments is null in YAML, and means its defaults."""
        if not isinstance(data, dict):
            return data
        empty = [name for name, field in cls.model_fields.items() if _is_section(field) and data.get(name, 0) is None]
        return data | {name: {} for name in empty}

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false in the place of a number, which pydantic takes for 1 and 0."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if _holds_bool(value) and any(kind in (int, float) or isinstance(kind, int) for kind in kinds):
            raise PydanticCustomError("number", "be a number, which true and false are not")
        return value


def _kinds(annotation: Any) -> list[Any]:
    """The types, and the values of literals, that an annotation is made of."""
    parts = get_args(annotation)
    return [kind for part in parts for kind in _kinds(part)] if parts else [annotation]


def _holds_bool(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_bool, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ by spaces or by their Unicode form alone, if there are any."""
    known: dict[str, str] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).split())
        if known.setdefault(plain, name) != name:
            return known[plain], name
    return None


def require_distinct(names: Iterable[str]) -> None:
    """Refuse aspects that look the same.

    Raises:
        ValueError: two differ by spaces or Unicode form alone.
    """
    if same := alike(names):
        raise ValueError(f"the aspects {same[0]!r} and {same[1]!r} differ by spaces or Unicode form alone; keep one")


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, or None if it holds a value."""
    candidates = (field.annotation, *get_args(field.annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, Section)), None)


def fingerprinted(section: Section) -> dict[str, Any]:
    """The settings of a section that decide its result, as plain values (fields marked HOW left out, at any depth)."""
    plain: dict[str, Any] = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("fingerprint") is False:
            del plain[name]
        elif isinstance(value, Section):
            plain[name] = fingerprinted(value)
        elif isinstance(value, dict):
            plain[name] |= {key: fingerprinted(one) for key, one in value.items() if isinstance(one, Section)}
    return plain
