"""``pdray init`` prints what the config models accept, every setting of them."""

from __future__ import annotations

import re

import yaml

from pdray.config import AlignmentConfig, RunConfig, ScoresConfig
from pdray.template import EXAMPLES, render


def test_the_template_is_yaml_with_the_examples_set():
    data = yaml.safe_load(render())
    assert data["corpus"]["path"] == EXAMPLES["corpus.path"]
    assert RunConfig.model_validate(data).selection.budget == 0.3


def test_uncommenting_everything_changes_nothing_but_exclusive_choices():
    lines = [re.sub(r"^( *)# (?=\w+:)", r"\1", line) for line in render().splitlines()]
    data = yaml.safe_load("\n".join(lines))
    assert RunConfig.model_validate(data) == RunConfig.model_validate(yaml.safe_load(render()))


def test_a_section_that_switches_something_on_is_one_line():
    assert re.search(r"^  # lora: null +# train adapters", render(), re.MULTILINE)
    assert "  lora:" not in render()


def test_every_setting_is_there_with_its_meaning():
    text = render()
    for section in (ScoresConfig, AlignmentConfig):
        for name, field in section.model_fields.items():
            assert re.search(rf"{name}:.*# {re.escape(field.description)}$", text, re.MULTILINE), name


def test_one_line_uncommented_stays_in_its_section():
    lines = render().splitlines()
    base = RunConfig.model_validate(yaml.safe_load(render()))
    commented = [number for number, line in enumerate(lines) if re.match(r" *# \w+: ", line)]
    assert len(commented) > 40
    for number in commented:
        changed = [*lines[:number], re.sub(r"^( *)# ", r"\1", lines[number]), *lines[number + 1 :]]
        data = yaml.safe_load("\n".join(changed))
        assert RunConfig.model_validate(data) == base, lines[number]
        depth = (len(lines[number]) - len(lines[number].lstrip())) // 2
        above = next((line for line in lines[number::-1] if re.match("  " * (depth - 1) + r"\w+:$", line)), None)
        section = data if depth == 0 else _find(data, above.strip().rstrip(":"))
        assert lines[number].split()[1].rstrip(":") in section


def _find(data, name):
    return next(part[name] for part in (data, data["corpus"]) if name in part)
