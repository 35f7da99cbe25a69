"""The whole run, every stage that is missing.

ray job submit -- python jobs/pipeline.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until())
