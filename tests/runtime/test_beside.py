"""The process beside the driver: one for all, replaced where it is lost, and late words do no harm."""

from __future__ import annotations

import time

import pytest

from pdray.engines.workers import Roll
from pdray.runtime import beside
from pdray.runtime.beside import Kept, end_beside, kept_beside

pytestmark = pytest.mark.usefixtures("ray_local")


def told_of_its_end(kept: Kept) -> None:
    """Wait until this process knows that the one beside it is gone; to end takes a moment."""
    import ray

    end = time.monotonic() + 60
    with pytest.raises(ray.exceptions.ActorDiedError):
        while time.monotonic() < end:
            kept.ask("all")
            time.sleep(0.1)


def test_objects_of_a_run_share_one_process_and_nothing_else() -> None:
    with kept_beside(Roll) as first, kept_beside(Roll) as second:
        first.ask("enter", "a")
        second.ask("enter", "b")
        assert (first.ask("all"), second.ask("all")) == (["a"], ["b"])
    with kept_beside(Roll) as third:
        assert third.ask("all") == []
        assert len({kept.actor._actor_id for kept in (first, second, third)}) == 1, "another process was started"


def test_workers_are_heard() -> None:
    import ray

    with kept_beside(Roll) as kept:
        ray.get([ray.remote(lambda kept, name: kept.ask("enter", name)).remote(kept, name) for name in "ab"])
        assert sorted(kept.ask("all")) == ["a", "b"]


def test_what_is_said_too_late_is_not_kept() -> None:
    with kept_beside(Roll) as kept:
        kept.ask("enter", "a")
    assert kept.ask("enter", "b") is None
    assert kept.ask("all") is None


def test_a_lost_process_is_an_error_for_whom_it_served_and_the_next_gets_another() -> None:
    import ray

    with kept_beside(Roll) as kept:
        kept.ask("enter", "a")
        ray.kill(kept.actor)
        told_of_its_end(kept)
    with kept_beside(Roll) as other:
        other.ask("enter", "b")
        assert other.ask("all") == ["b"]


def test_it_ends_when_it_is_told_to() -> None:

    with kept_beside(Roll) as kept:
        kept.ask("enter", "a")
    end_beside()
    told_of_its_end(kept)
    end_beside()  # nothing is there any more
    assert beside._state["actor"] is None


def test_one_that_seems_to_be_there_still_is_not_in_the_way_of_the_next(monkeypatch) -> None:
    """On a busy machine Ray may take the name of one that was ended for taken, and go on doing so."""
    with kept_beside(Roll) as kept:
        kept.ask("enter", "a")
        monkeypatch.setitem(beside._state, "actor", None)  # as end_beside leaves it
        with kept_beside(Roll) as other:
            other.ask("enter", "b")
            assert (kept.ask("all"), other.ask("all")) == (["a"], ["b"])
        end_beside()
