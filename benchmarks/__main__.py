"""`python -m benchmarks` is `towpath bench`."""

import sys

from towpath.adapters.cli import main

sys.argv = [sys.argv[0], "bench", *sys.argv[1:]]
main()
