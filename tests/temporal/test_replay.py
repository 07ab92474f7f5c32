"""Chains of the suites on a worker that keeps no workflow in memory: every task replays the whole history.
Workflow code that is not deterministic fails here.
"""

from __future__ import annotations

import pytest

from tests.conformance.adapter import (
    folder,
    test_a_cancel_goes_down,
    test_a_chain_inside_a_chain_inside_a_chain,
    test_a_condition_decides,
    test_a_gate_per_item,
    test_a_gate_two_chains_down,
    test_cancel,
    test_cancel_a_mapped_step,
    test_diamond,
    test_fan_out_over_a_list_known_at_run_time,
    test_H3_a_gate_waits_while_other_branches_go_on,
    test_kept_item_failures_end_partial,
    test_linear,
    test_paired_items_skip_with_their_partner,
    test_pause_and_resume,
    test_rerun_from_a_step,
    test_retries_with_growing_waits,
    test_S6_6_a_failure_skips_dependents_and_lets_others_finish,
)
from tests.conformance.gates import (
    test_a_skip_leaves_other_gates_alone,
    test_H4_items_are_decided_one_by_one,
    test_H4_regenerate_makes_a_new_version_with_other_parameters,
)
from towpath.adapters.temporal import worker

__all__ = [
    "folder",
    "test_H3_a_gate_waits_while_other_branches_go_on",
    "test_H4_items_are_decided_one_by_one",
    "test_H4_regenerate_makes_a_new_version_with_other_parameters",
    "test_S6_6_a_failure_skips_dependents_and_lets_others_finish",
    "test_a_cancel_goes_down",
    "test_a_chain_inside_a_chain_inside_a_chain",
    "test_a_condition_decides",
    "test_a_gate_per_item",
    "test_a_gate_two_chains_down",
    "test_a_skip_leaves_other_gates_alone",
    "test_cancel",
    "test_cancel_a_mapped_step",
    "test_diamond",
    "test_fan_out_over_a_list_known_at_run_time",
    "test_kept_item_failures_end_partial",
    "test_linear",
    "test_paired_items_skip_with_their_partner",
    "test_pause_and_resume",
    "test_rerun_from_a_step",
    "test_retries_with_growing_waits",
]

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker forgets every workflow after each of its tasks."""
    monkeypatch.setattr(worker, "CACHED", 0)
