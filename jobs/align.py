"""Align the policy on the kept pairs, after whatever earlier stage is missing.

ray job submit -- python jobs/align.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("alignment"))
