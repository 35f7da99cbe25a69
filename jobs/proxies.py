"""Train the proxy reward models, after whatever of the corpus is missing.

ray job submit -- python jobs/proxies.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("proxies"))
