"""The kept pairs of a run as a data set on a hub that speaks the interface of the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pdray.errors import UserError, reason
from pdray.sharing.export import Exported, export


def push(
    run: str | Path, name: str, test: float = 0.0, license: str | None = None, public: bool = False
) -> tuple[str, Exported]:
    """Export a run and upload it in one commit; a data set of that name gets a new version.

    The token is the one that ``hf auth login`` keeps, or that of ``HF_TOKEN``; the hub is ``HF_ENDPOINT``.

    Args:
        run, test, license: as for :func:`~pdray.sharing.export.export`.
        name: ``owner/name`` of the data set.
        public: whether everybody may read a data set that is new; one that is there stays as it is.

    Returns:
        the address of the data set, and what was exported.

    Raises:
        UserError: as :func:`~pdray.sharing.export.export`; the name is none; the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars, validate_repo_id

    # Errors of the hub's HTTP client, whichever that is, and of the system.
    unreachable: Any = HfHubHTTPError.__bases__
    if name.count("/") != 1:
        raise UserError(f"{name!r} names no data set; write it as owner/name")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"{name!r} names no data set: {reason(error)}") from None
    disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="pdray-push-") as scratch:
        done = export(run, Path(scratch) / "data", test=test, license=license)
        api = HfApi()
        try:
            address = api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
            api.upload_folder(
                folder_path=done.folder,
                repo_id=name,
                repo_type="dataset",
                commit_message=f"{sum(done.pairs.values()):,} pairs selected by pdray",
                delete_patterns=["data/*"],  # files of an earlier version, of which there may have been more
            )
        except OfflineModeIsEnabled:
            raise UserError("HF_HUB_OFFLINE keeps this machine from the hub; unset it, or use pdray export") from None
        except HfHubHTTPError as error:
            cure = "; check HF_TOKEN, or log in with hf auth login" if _status(error) in (401, 403) else ""
            raise UserError(f"the hub refuses {name}: {reason(error)}{cure}") from None
        except unreachable as error:
            raise UserError(f"{api.endpoint} cannot be reached: {reason(error)}") from None
    return str(address), done


def _status(error: Exception) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status
