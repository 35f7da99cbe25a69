"""Keys and passwords in settings and arguments: refused, and not repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdray.cli import main
from pdray.config import build_config
from pdray.errors import UserError
from pdray.paths import holds_secret

URI = "s3://KEY:SECRET@bucket/x"
NAMES = ("hf_token", "private_token", "id_token", "pwd", "passwd", "auth", "credential", "bearer")


@pytest.mark.parametrize("name", [*NAMES, "SharedAccessSignature", "X-Amz-Security-Token", "db_password", "idtoken"])
def test_a_query_with_a_secret_is_recognised(name: str) -> None:
    assert holds_secret(f"https://host/x?{name}=SECRET")
    assert holds_secret(f"s3://bucket/x?a=1&{name.upper()}=SECRET")
    assert not holds_secret(f"s3://bucket/x?{name}_kind=1")
    assert not holds_secret(f"s3://bucket/{name}=1/x")


@pytest.mark.parametrize(
    "words",
    [
        ["show", URI],
        ["report", URI],
        ["report", "run", URI],
        ["report", "run", "--out", URI],
        ["export", URI, "out"],
        ["export", "run", URI],
        ["push", URI, "me/it"],
        ["data", "rated", "--input", "in", URI, "--out", "out"],
        ["data", "rated", "--input", "in", "--out", "memory://x?token=SECRET"],
        ["run", URI, "--dry-run"],
        ["plan", URI],
        ["demo", "--folder", URI],
        ["models", "minilm", "https://h/x?auth=SECRET"],
        ["submit", URI, "--address", "http://127.0.0.1:1"],
        ["show", "run", URI],
        ["data", URI, "--out", "out"],
    ],
)
def test_no_command_repeats_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    told = capsys.readouterr()
    assert code == 2
    assert "holds a key or password" in told.err and "SECRET" not in told.err + told.out
    assert not list(tmp_path.iterdir())


def endpoint(**settings: Any) -> str:
    return f"evaluation={{pairs: x.jsonl, endpoints: {{j: { ({'url': 'http://h/v1', 'model': 'm'} | settings)!r}}}}}"


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("alignment={policy: p, deepspeed: {comet: {api_key: SECRET}}}", "alignment.deepspeed.comet.api_key"),
        ("alignment={policy: p, deepspeed: {x: {pwd: SECRET}}}", "alignment.deepspeed.x.pwd"),
        (endpoint(extra_body={"credentials": "SECRET"}), "evaluation.endpoints.j.extra_body.credentials"),
        (endpoint(extra_body={"api_keys": ["SECRET"]}), "evaluation.endpoints.j.extra_body.api_keys"),
        (endpoint(extra_body={"head": "Bearer SECRET"}), "evaluation.endpoints.j.extra_body.head"),
        (endpoint(extra_body={"a": ["hf_" + "SECRET" * 3]}), "evaluation.endpoints.j.extra_body.a"),
    ],
)
def test_a_key_in_what_is_handed_on_is_refused(override: str, place: str) -> None:
    with pytest.raises(UserError, match=rf"(?m)^{place} holds a key or password.*take it out") as refusal:
        build_config({}, [override])
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize("key", ["hf_SECRETKEY", "AKIA" + "SECRET0123456789"[:16], "SECRETlower"])
def test_a_key_in_the_place_of_its_variables_name_is_not_repeated(key: str) -> None:
    with pytest.raises(UserError, match="key_variable: is no name of an environment variable") as refusal:
        build_config({}, [endpoint(key_variable=key)])
    assert "SECRET" not in str(refusal.value)


def test_other_texts_are_handed_on() -> None:
    words = [
        endpoint(extra_body={"a": "asia-northeast1", "stop": "token x", "tokenizer": "m"}, key_variable="HF_TOKEN"),
        "alignment={policy: p, deepspeed: {monitor: {job_name: key-figures}}}",
    ]
    with pytest.raises(UserError) as refusal:
        build_config({}, words)
    assert "key or password" not in str(refusal.value) and "key_variable" not in str(refusal.value)
