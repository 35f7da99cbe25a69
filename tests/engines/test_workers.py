"""What holds the workers of a pass together."""

from __future__ import annotations

import time

import pytest

from pdray.engines.workers import all_ended


def test_a_list_of_workers_that_is_lost_does_not_fail_their_round(ray_local: None) -> None:
    import ray

    with all_ended() as roll:
        roll.ask("enter", "a worker")
        ray.kill(roll.actor)  # which comes to it a moment later
        with pytest.raises(ray.exceptions.RayError):
            for _ in range(600):
                roll.ask("all")
                time.sleep(0.1)
