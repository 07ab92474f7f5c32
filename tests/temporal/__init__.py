"""Tests of the Temporal adapter."""

from datetime import timedelta

STICKY = timedelta(seconds=0.5)  # of workers in tests: how long a task waits for a worker that may be gone
