"""An engine for one test."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from towpath.adapters.wiring import Engine, open_engine


def engine(folder: str | os.PathLike[str] | None = None, **options: Any) -> AbstractAsyncContextManager[Engine]:
    """An engine in a temporary folder that is removed when the engine closes: `async with engine() as e`.

    With `folder`, which must exist, the store is `towpath.db` in it, and stays. `options` are those of `open_engine`.
    Settings of the environment and of `towpath.toml` that name an adapter or ComfyUI servers are not used.
    """
    store = "sqlite:///:memory:" if folder is None else Path(folder, "towpath.db")
    blobs = None if folder is None else Path(folder, "towpath-store")
    plain: dict[str, Any] = {"adapter": "local", "durability": "normal", "servers": (), "blobs": blobs}
    return open_engine(store, **{**plain, **options})
