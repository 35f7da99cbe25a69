"""The nodes that a run keeps to: those with the labels of ``cluster.labels``, by Ray's own label selectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pdray.errors import UserError

Labels = Mapping[str, str]

_state: dict[str, Labels] = {"labels": {}}


def run_labels() -> dict[str, str]:
    """The labels that a node has to have to work for this process's run; empty where any node does."""
    return dict(_state["labels"])


def has_labels(node: Labels, wanted: Labels) -> bool:
    """Whether a node with some labels has those that are wanted."""
    return all(node.get(name) == value for name, value in wanted.items())


def as_words(labels: Labels) -> str:
    """As ``ray start --labels`` takes them: ``pool=team-a,zone=1``."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def remote(work: Any, **options: Any) -> Any:
    """``ray.remote(**options)(work)`` on the nodes that the run keeps to.

    All work of a run is made by it. What stays at a node that was chosen for another reason is made by Ray's own.
    """
    import ray

    return ray.remote(**options, label_selector=run_labels() or None)(work)


@contextlib.contextmanager
def kept_to(labels: Labels) -> Iterator[None]:
    """What :func:`remote` makes and Ray Data starts is on nodes with these labels while the block runs.

    Needs a Ray session. Ray Train is told where it is started; see :func:`run_labels`.

    Raises:
        UserError: a release of Ray whose shuffles are not known here, or Ray's shuffle through files is on.
    """
    if not labels:
        yield
        return
    from ray.data import DataContext

    if DataContext.get_current().use_disk_based_hash_shuffle:
        raise UserError(
            "cluster.labels is set, and RAY_DATA_ENABLE_DISK_SHUFFLE with it, whose tasks go to any node of the "
            "cluster; unset one of the two"
        )
    options, shuffles, before = DataContext.get_current().execution_options, _shuffle_tasks(), _state["labels"]
    _state["labels"] = labels
    options.label_selector = dict(labels)
    for task in shuffles:
        task["label_selector"] = dict(labels)
    try:
        yield
    finally:
        _state["labels"] = before
        options.label_selector = dict(before) or None
        for task in shuffles:
            task["label_selector"] = dict(before) or None


def _shuffle_tasks() -> list[dict[str, Any]]:
    """The options of the tasks of Ray Data's shuffle.

    Ray 2.60 gives its selector to everything but these, and may fuse what comes after a shuffle into them. The older
    shuffle has it, but reserves memory by the whole cluster, which the labelled nodes may not have.
    """
    import ray

    try:
        from ray.data._internal.execution.operators.shuffle_operators import shuffle_tasks

        return [task._default_options for task in (shuffle_tasks._shuffle_map_task, shuffle_tasks._shuffle_reduce_task)]
    except (ImportError, AttributeError):
        raise UserError(
            f"cluster.labels is set, but how Ray {ray.__version__} shuffles is not known here, and "
            "its tasks could go to any node; install the Ray of requirements.lock, or leave cluster.labels out"
        ) from None
