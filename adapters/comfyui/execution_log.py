"""One JSONL file per prompt: what was sent to which server, which nodes ran, how it ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiofiles
import anyio
import msgspec

from towpath.redaction import redacted_data

FOLDER = "prompts"


class ExecutionLog:
    """Appends events of one prompt to `<folder>/prompts/<time>_<prompt id>.jsonl`. Errors of the disk are ignored."""

    def __init__(self, folder: Path, prompt_id: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
        self.path = folder / FOLDER / f"{stamp}_{prompt_id}.jsonl"
        self.prompt_id = prompt_id
        self._lines: list[bytes] = []

    @classmethod
    async def of(cls, folder: Path, prompt_id: str) -> ExecutionLog:
        """The existing log of a prompt, to append to it; a new one if there is none."""
        log = cls(folder, prompt_id)
        try:
            async for path in anyio.Path(log.path.parent).glob(f"*_{prompt_id}.jsonl"):
                log.path = Path(path)
        except OSError:
            pass
        return log

    def note(self, event: str, **data: Any) -> None:
        """Add an event that the next `write` puts on disk."""
        line = {"at": time.time(), "event": event, "prompt_id": self.prompt_id, **redacted_data(data)}
        self._lines.append(msgspec.json.encode(line, enc_hook=str) + b"\n")

    async def write(self, event: str, **data: Any) -> None:
        """Write an event and the noted ones to the file, without fsync. A disk error is not raised."""
        self.note(event, **data)
        lines, self._lines = self._lines, []
        try:
            await anyio.Path(self.path.parent).mkdir(parents=True, exist_ok=True)
            async with aiofiles.open(self.path, "ab") as file:
                await file.write(b"".join(lines))
        except OSError:
            self._lines = lines[-1000:]  # written with the next event, if the disk works again
