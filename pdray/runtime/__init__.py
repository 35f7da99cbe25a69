"""Ray for every stage: the session, and one policy for what fits on it."""

from pdray.runtime.head import head_watched
from pdray.runtime.labels import remote, run_labels
from pdray.runtime.placement import (
    Need,
    Places,
    check_labels,
    find_places,
    nodes_may_come,
    places_for,
    worker_places,
)
from pdray.runtime.session import (
    driver_node,
    keep_on_loopback,
    living,
    living_nodes,
    may_grow,
    present_ray,
    private_folder,
    ray_session,
    run_nodes,
)

__all__ = [
    "Need",
    "Places",
    "check_labels",
    "driver_node",
    "find_places",
    "head_watched",
    "keep_on_loopback",
    "living",
    "living_nodes",
    "may_grow",
    "nodes_may_come",
    "places_for",
    "present_ray",
    "private_folder",
    "ray_session",
    "remote",
    "run_labels",
    "run_nodes",
    "worker_places",
]
