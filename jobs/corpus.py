"""Read and check the corpus.

ray job submit -- python jobs/corpus.py run.yaml
"""

import sys

from pdray.jobs import run_until

if __name__ == "__main__":
    sys.exit(run_until("corpus"))
