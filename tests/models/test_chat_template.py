"""Chat templates are programs: those that fail, never end or write without end are refused before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdray.errors import UserError
from pdray.models import template
from tests.tiny import tiny_llama_lm


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tiny_llama_lm(tmp_path / "policy", chat=True)


def write(policy: Path, text: str) -> None:
    assert template.has_template(str(policy))
    (policy / "chat_template.jinja").write_text(text)


def test_a_template_that_works_and_one_that_wants_other_roles_are_accepted(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit is on the template, not on the import of the libraries, which takes seconds.
    monkeypatch.setattr(template, "SECONDS", 1)
    template.check_template("a model", str(policy))
    write(policy, "{{ raise_exception('only assistants') }}")
    template.check_template("a model", str(policy))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for message in messages %}{{ message.content", "TemplateSyntaxError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% for i in range(99999) %}words {% endfor %}", "more than 100,000 characters"),
        ("{{ 'x' * 20000000000 }}", "MemoryError"),
        ("hello", "in which the user says something else"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "in which the user says something else"),
        ("{{ messages[0].content }}", "in which the assistant says something else"),
        ("{{ messages[-1].content }}", "in which the user says something else"),
    ],
)
def test_a_template_that_fails_is_refused_with_what_it_said(policy: Path, text: str, reason: str) -> None:
    write(policy, text)
    with pytest.raises(UserError, match=rf"^a model, whose tokenizer or chat template cannot be used \(.*{reason}"):
        template.check_template("a model", str(policy))


def test_a_template_that_does_not_end_is_refused(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SECONDS", 1)
    loop = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    write(policy, loop)
    with pytest.raises(UserError, match=r"^a model, whose chat template does not end within 1 seconds"):
        template.check_template("a model", str(policy))
