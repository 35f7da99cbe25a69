"""The commented YAML that ``pdray init`` prints, made from the config models so that the two cannot part."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pdray.config import RunConfig, Section, section_of

# What a first run has to set, with something to replace; everything else shows its default.
EXAMPLES: dict[str, Any] = {
    "corpus.path": "data/pairs.parquet",
    "proxies.base_model": "models/proxy-base",
    "alignment.policy": "models/sft-policy",
}
HEADER = """\
# A pdray run. Lines that begin with '#' and a key show the default; uncomment one to change it.
# Check it with:  pdray run run.yaml --dry-run
"""
WIDTH = 44


def render() -> str:
    """The template: required keys set, every other key commented out with its default and its meaning."""
    return HEADER + "\n".join(_section(RunConfig, "", 0)) + "\n"


def _section(model: type[Section], prefix: str, depth: int) -> list[str]:
    lines: list[str] = []
    for name, field in model.model_fields.items():
        key, indent = f"{prefix}{name}", "  " * depth
        section = section_of(field)
        # A section that is left out by default shows as a setting, but for one that a first run has: a line of it would
        # switch it on.
        if section and (field.default is not None or _is_set(key)):
            # Never commented out: a line of it that is uncommented alone would land in the section above.
            lines += ([""] if depth == 0 else []) + [f"{indent}{name}:", *_section(section, f"{key}.", depth + 1)]
        else:
            lines.append(_line(name, key, field, indent))
    return lines


def _is_set(key: str) -> bool:
    return any(example.startswith(f"{key}.") for example in EXAMPLES)


def _line(name: str, key: str, field: FieldInfo, indent: str) -> str:
    if key in EXAMPLES or key == "run":
        text = f"{indent}{name}: {EXAMPLES.get(key, field.default)}"
    else:
        default = field.get_default(call_default_factory=True)
        shown = "" if default is PydanticUndefined else json.dumps(default)
        text = f"{indent}# {name}: {shown}"
    return f"{text:<{WIDTH}}  # {field.description}"
