"""Where the workers of a training find each other.

torch's own meeting point, a TCPStore, listens on every interface and asks nobody for a token. A Ray that keeps to the
loopback interface has all its workers on one machine, where a file in Ray's session folder serves as well.
"""

from __future__ import annotations

import os
from typing import Any


def torch_config() -> Any:
    """Ray Train's ``TorchConfig`` for the Ray of this process; needs a session."""
    from ray._private import ray_constants
    from ray.train.torch import TorchConfig

    # Several machines have nothing but the network to meet on.
    return TorchConfig() if ray_constants.ENABLE_RAY_CLUSTER else _file_config()


def _file_config() -> Any:
    import ray
    from ray.train._internal.utils import get_address_and_port
    from ray.train.torch import TorchConfig
    from ray.train.torch import config as torch_train

    class FileBackend(torch_train._TorchBackend):
        """Ray Train's torch backend, but for the address of the process group."""

        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            address, port = worker_group.execute_single(0, get_address_and_port)
            # Nothing listens there: DeepSpeed tells the shared memory of two trainings apart by these two.
            worker_group.execute(os.environ.update, {"MASTER_ADDR": address, "MASTER_PORT": str(port)})
            worker_group.execute(torch_train._set_torch_distributed_env_vars)
            arguments = {
                "backend": "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo",
                "world_size": len(worker_group),
                "init_method": worker_group.execute_single(0, _meeting_file),
                "timeout_s": backend_config.timeout_s,
            }
            join = torch_train._setup_torch_process_group
            ray.get(
                [
                    worker_group.execute_single_async(rank, join, world_rank=rank, **arguments)
                    for rank in range(len(worker_group))
                ]
            )

    class FileConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[FileBackend]:
            return FileBackend

    return FileConfig()


def _meeting_file() -> str:
    """The URL of a new file beside Ray's own, in a folder that only its owner may enter."""
    from ray._private.worker import _global_node

    return f"file://{_global_node.get_session_dir_path()}/torch-{os.urandom(8).hex()}"
