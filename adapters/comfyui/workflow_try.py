"""What a try of a ComfyUI step is given. Apart from the rest, so that adapters need not import an HTTP client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.context import StepContext
from towpath.events import Fact
from towpath.ledger import LedgerRow
from towpath.model import Json, StepPlan

RecordFacts = Callable[[Sequence[Fact]], Awaitable[None]]
"""Makes facts of a run durable."""


@dataclass(slots=True)
class WorkflowTry:
    """A step and its row, its arguments, its workflow as the plan holds it, and a slot of a server.

    `row.server` and `row.prompt` say where the prompt of an earlier try is, and are kept up to date. `slot` is
    another one afterwards if the first server was in trouble.
    """

    run_id: str
    step: StepPlan
    row: LedgerRow
    arguments: dict[str, Any]
    workflow: Json
    context: StepContext
    record: RecordFacts
    slot: Any
