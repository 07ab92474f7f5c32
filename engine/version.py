"""The version of towpath that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("towpath")
except PackageNotFoundError:  # copied into a program without its metadata
    __version__ = "unknown"
