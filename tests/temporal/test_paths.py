"""A worker of Temporal: text inside a chain opens no file."""

from tests.conformance.paths import *  # noqa: F403
