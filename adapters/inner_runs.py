"""What a run needs from the process that drives it: slots, limits, and runs for the chains inside its steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from towpath.model import ChainStatus, ErrorInfo
from towpath.steps import Step

from .limits import Limits
from .slots import Slots
from .step_executor import Resources, Work


@dataclass(frozen=True, slots=True)
class InnerEnd:
    """How the chain inside a step ended: its status, and its value with artifacts in place."""

    status: ChainStatus
    value: Any = None
    error: ErrorInfo | None = None
    reason: str = ""


HELD = InnerEnd(ChainStatus.PAUSED)  # paused with the run around it: its step stays `executing`


class Outer(Protocol):
    """The run around a step."""

    @property
    def children(self) -> dict[str, str]:
        """The runs inside steps, by the id of the step's row."""
        ...

    @property
    def functions(self) -> Mapping[str, Step[..., Any]]: ...

    @property
    def variables(self) -> Context:
        """The context variables of whoever started it."""
        ...

    @property
    def stands(self) -> str:
        """The request that a chain inside a step must obey from its start: `pause`, or ""."""
        ...


class Inner(Protocol):
    """Runs chains inside steps, and has what all runs of the process share."""

    @property
    def resources(self) -> Resources: ...

    @property
    def slots(self) -> Slots:
        """The slots of this process, one for each step that runs at the same time."""
        ...

    @property
    def limits(self) -> Limits:
        """The places under limits."""
        ...

    @property
    def suspects(self) -> Slots:
        """One slot, for steps on which processes have died."""
        ...

    async def run_inner(self, parent: Outer, work: Work) -> InnerEnd: ...

    def obey_inner(self, parent: Outer, work: Work, kind: str) -> None:
        """Hand a cancel or a pause to the chain inside a step."""
        ...
