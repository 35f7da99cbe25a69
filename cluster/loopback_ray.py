"""The ``ray`` command for several nodes on 127.0.0.1; ``cluster/local.sh`` starts its worker nodes with it.

Ray replaces 127.0.0.1 by the machine's own address, and its servers then listen on every interface. The variable
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 turns that off (servers of a node on 127.0.0.1 listen on loopback only), but
``ray start --address`` then takes the machine for one without cluster support. Both are needed here.
"""

import os

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # inherited by everything that the node starts

from ray._private import ray_constants, services
from ray.scripts.scripts import main

ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda address=None: "127.0.0.1"

if __name__ == "__main__":
    main()
