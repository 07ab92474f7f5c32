"""Tests of steps and chains.

`step_context` and `artifact` are for steps that a test calls as plain functions, `engine` runs chains in a store that
is gone afterwards, and `replaced` puts fakes in the place of steps. With `pytest_plugins = ["towpath.testing"]` in the
top `conftest.py` there are the fixtures `step_context` and `towpath_engine` too.

As a plugin it has no assertions of its own (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

from .contexts import TrialContext, step_context
from .engines import engine
from .fakes import replaced
from .files import artifact

__all__ = ["TrialContext", "artifact", "engine", "replaced", "step_context"]

pytest_plugins = ["towpath.testing.fixtures"]  # read by pytest alone, when this module is one of its plugins
