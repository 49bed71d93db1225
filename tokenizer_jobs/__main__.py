"""`python -m tokenizer_jobs` is the command `tokenizer-jobs`."""

import sys

from tokenizer_jobs.cli import main

if __name__ == "__main__":
    sys.exit(main())
