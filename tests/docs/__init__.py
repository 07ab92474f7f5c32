"""The documentation is run: see `pages.py` for what is done with which block."""
