"""What every block of the configuration is made of.

A field marked with :data:`HOW` says how a result is computed and never what it is: it stays out of the
stage fingerprints, so that changing it reuses finished stages.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

HOW: dict[str, Any] = {"fingerprint": False}

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A block of the YAML: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, or None if it holds a value."""
    candidates = (field.annotation, *get_args(field.annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, Section)), None)


def fingerprinted(section: Section) -> dict[str, Any]:
    """The settings of a section that decide its result, as plain values (fields marked HOW left out)."""
    how = {
        name
        for name, field in type(section).model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("fingerprint") is False
    }
    return section.model_dump(mode="json", exclude=how)
