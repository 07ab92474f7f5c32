"""A context for a step that a test calls as a plain function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from towpath.artifact import Artifact
from towpath.context import StepContext, standing_in
from towpath.errors import ValueRefused
from towpath.values import NewFile


class TrialContext(StepContext):
    """What `context()` returns in the step; and what the step did with it, for the test to look at.

    `reports` are the calls of `progress`, as (done, total).
    """

    def __init__(self, run_id: str, step_id: str, item: int | None, attempt: int, folder: Path) -> None:
        super().__init__(run_id, step_id, item, attempt, folder)
        self.reports: list[tuple[float, float | None]] = []
        self.on_progress = self._note

    def _note(self) -> None:
        self.reports.append((self.done, self.total))

    @property
    def files(self) -> dict[str, bytes]:
        """The bytes of the files that the step has saved, by name. Raises ValueRefused (E_VALUE_TYPE) for a stream."""
        return {file.name: _bytes_of(file) for file in self.saved}

    @property
    def logged(self) -> list[str]:
        """What the step has written to its logger: time, level and message of each line."""
        return [] if self.log is None else self.log.text().splitlines()

    def cancel(self) -> None:
        """From now on `check` and `progress` raise StepCancelled in the step, as after a timeout."""
        self._over = True


def _bytes_of(file: NewFile) -> bytes:
    data = file.data
    if isinstance(data, bytes):
        return data
    if isinstance(data, Path):
        return data.read_bytes()
    if isinstance(data, Artifact):
        return data.bytes()
    raise ValueRefused("E_VALUE_TYPE", f"{file.name} is a stream; the test has to read it itself", found=type(data))


@contextmanager
def step_context(
    tmp_path: Path | None = None,
    *,
    run_id: str = "test-run",
    step_id: str = "step",
    item: int | None = None,
    attempt: int = 1,
) -> Iterator[TrialContext]:
    """While the block lasts, `context()` works in steps that are called as plain functions.

    The work folder lies in `tmp_path`, by default in a temporary folder, and is removed at the end of the block.
    Threads that the step or the test starts see the context too.
    """
    with _folder(tmp_path) as folder:
        trial = TrialContext(run_id, step_id, item, attempt, folder)
        try:
            with standing_in(trial):
                yield trial
        finally:
            trial.end()


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with TemporaryDirectory(prefix="towpath-", ignore_cleanup_errors=True) as made:
        yield Path(made)
