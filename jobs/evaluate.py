"""Judge the trained policy on held-out pairs, after whatever earlier stage is missing.

ray job submit -- python jobs/evaluate.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("evaluation"))
