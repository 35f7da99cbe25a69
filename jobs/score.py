"""Score the corpus with the proxies, after whatever earlier stage is missing.

ray job submit -- python jobs/score.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("scores"))
