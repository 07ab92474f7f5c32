"""The input of a try of a ComfyUI step. In a module of its own: adapters import it without an HTTP client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.context import StepContext
from towpath.events import Fact
from towpath.ledger import LedgerRow
from towpath.model import Json, StepPlan

RecordFacts = Callable[[Sequence[Fact]], Awaitable[None]]
"""Records facts of a run durably."""


@dataclass(slots=True)
class WorkflowTry:
    """A step and its row, its arguments, its workflow as the plan holds it, and a slot of a server.

    `row.server` and `row.prompt` name the prompt of an earlier try, and are updated. `slot` is replaced if its server
    does not answer.
    """

    run_id: str
    step: StepPlan
    row: LedgerRow
    arguments: dict[str, Any]
    workflow: Json
    context: StepContext
    record: RecordFacts
    slot: Any
