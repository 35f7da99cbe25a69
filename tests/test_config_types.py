"""Settings that would be taken for something else than they say: numbers, columns, folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pdray.config import build_config
from pdray.errors import UserError


@pytest.mark.parametrize(
    "override",
    [
        "selection.budget=true",
        "seed=true",
        "seed=no",
        "cluster.num_cpus=on",
        "alignment.zero_stage=true",
        "proxies.length_penalty=false",
        "selection.weights={a: true}",
        "scores.num_actors=true",
        "rounds=yes",
    ],
)
def test_true_and_false_are_no_numbers(settings: dict[str, Any], override: str) -> None:
    with pytest.raises(UserError) as refused:
        build_config(settings, [override])
    (told,) = refused.value.sentences
    assert told.startswith(f"{override.partition('=')[0]} is ")
    assert "but should be a number, which true and false are not; change it (" in told


def test_a_switch_is_one_and_numbers_as_text_are_numbers(settings: dict[str, Any]) -> None:
    words = ["proxies.unified=true", "scores.engine_args={enforce_eager: true}", "selection.budget='1e-1'"]
    config = build_config(settings, words)
    assert (config.proxies.unified, config.scores.engine_args["enforce_eager"]) == (True, True)
    assert config.selection.budget == 0.1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("corpus.columns={prompt: chosen}", "columns.prompt and columns.chosen are both the column 'chosen'"),
        ("corpus.columns={aspect: rejected}", "columns.rejected and columns.aspect are both the column 'rejected'"),
        (
            "corpus={kind: rated, columns: {response_b: response_a}}",
            "columns.response_a and columns.response_b are both the column 'response_a'",
        ),
        ("corpus={kind: rated, columns: {response: prompt}}", "columns.prompt and columns.response are both"),
        (
            "corpus={kind: rated, columns: {ratings: {kind: r, honest: r}}}",
            "columns.ratings.kind and columns.ratings.honest are both the column 'r'",
        ),
    ],
)
def test_a_column_has_one_role(settings: dict[str, Any], override: str, words: str) -> None:
    name, _, value = override.partition("=")
    path = settings["corpus"]["path"]
    with pytest.raises(UserError, match=f"^corpus: {words}.*; name one column for each"):
        build_config(settings, [f"{name}={value}", f"corpus.path={path}"])


@pytest.mark.parametrize(
    "override",
    [
        "{columns: {source: aspect}}",
        "{columns: {chosen: rejected, rejected: chosen}}",
        "{columns: {response_a: chosen}}",
        "{kind: rated, columns: {response_a: response, response_b: other}}",
        "{kind: rated, columns: {chosen: prompt}}",
    ],
)
def test_roles_that_are_not_read_together_may_share_a_column(settings: dict[str, Any], override: str) -> None:
    build_config(settings, [f"corpus={override}", f"corpus.path={settings['corpus']['path']}"])


@pytest.mark.parametrize("run", ["s3:/x", "gs:/bucket/runs/a", "file:/tmp/x", "S3:/x"])
def test_a_uri_with_one_slash_is_no_folder(settings: dict[str, Any], run: str) -> None:
    with pytest.raises(UserError, match=rf"^run: {run} is a folder named '{run.partition('/')[0]}' here; write "):
        build_config(settings, [f"run={run}"])


@pytest.mark.parametrize("run", ["./s3:/x", "a:b/c", "runs/12:30"])
def test_a_folder_may_have_a_colon(settings: dict[str, Any], run: str) -> None:
    assert build_config(settings, [f"run={run}"]).run.endswith(run.removeprefix("."))


@pytest.mark.parametrize("inside", ["", "/runs/a"])
@pytest.mark.parametrize("name", ["alignment.policy", "proxies.base_model"])
def test_a_run_folder_inside_a_model_folder_is_refused(
    settings: dict[str, Any], tmp_path: Path, name: str, inside: str
) -> None:
    section, _, key = name.partition(".")
    (tmp_path / "link").symlink_to(settings[section][key])
    with pytest.raises(UserError, match=rf"run is {tmp_path}/link{inside}, which lies in the model folder of {name}"):
        build_config(settings, [f"run={tmp_path}/link{inside}"])
