"""The JSON files of a model folder that are not as they should be."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pdray.errors import UserError, check_together
from pdray.models.folder import check_model_folder
from pdray.models.positions import check_positions
from pdray.paths import not_readable


def test_a_closed_config_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opening = tmp_path / "config.json", os.open
    path.write_text("{}")

    def closed(name: Any, *rest: Any, **options: Any) -> int:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", name)
        return opening(name, *rest, **options)

    monkeypatch.setattr(os, "open", closed)  # root may open everything
    monkeypatch.setattr(os, "access", lambda name, *rest, **options: str(name) != str(path))
    checks = [
        partial(check_model_folder, "alignment.policy", str(tmp_path), "policy"),
        partial(check_positions, "alignment.max_tokens", 8, str(tmp_path)),
    ]
    with pytest.raises(UserError) as refused:
        check_together(checks)
    assert refused.value.sentences == [not_readable(str(path))]
