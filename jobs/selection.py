"""Cut the corpus by preference divergence, after whatever earlier stage is missing.

ray job submit -- python jobs/selection.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("selection"))
