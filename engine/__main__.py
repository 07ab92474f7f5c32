"""`python -m towpath`."""

from towpath.adapters.cli import main

main()
