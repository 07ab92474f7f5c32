"""S4.1: one importable unit for each concern, callable without Temporal, with the seed's leading parameters."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from towpath.adapters import activities

LEADING = {
    "select_best_server": "strategy server_name",
    "execute_and_track_workflow": "server_address workflow_json workflow_name timeout",
    "get_server_output_files": "server_address history_or_outputs",
    "download_and_store_images": "server_address output_files workflow_id",
    "download_and_store_artifacts": "workflow_id server_address output_files",
    "transfer_artifacts_from_storage": "source_workflow_id target_server artifact_ids target_workflow_id",
    "transfer_outputs_to_input": "source_server target_server output_files",
    "create_execution_log": "prompt_id server_address workflow_definition history",
    "resolve_chain_templates": "parameters step_results uploaded_inputs",
    "evaluate_chain_condition": "condition step_results",
    "apply_workflow_parameters": "workflow_name parameters",
    "create_chain_record": "chain_name temporal_workflow_id temporal_run_id chain_definition description",
    "create_workflow_record": "workflow_name server_address prompt_id chain_id step_id temporal_workflow_id "
    "temporal_run_id workflow_definition parameters",
    "update_chain_status_activity": "chain_id status current_level error_message",
    "update_workflow_status_activity": "workflow_id status error_message",
    "get_workflow_artifacts": "workflow_id",
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_S4_1_the_seeds_names_and_leading_parameters() -> None:
    assert sorted(activities.__all__) == sorted(LEADING) == sorted(dir(activities))
    for name, leading in LEADING.items():
        function = getattr(activities, name)
        assert inspect.iscoroutinefunction(function), name
        assert function.__doc__, name
        parameters = inspect.signature(function).parameters.values()
        assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == leading.split(), name


def test_S4_1_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = activities.nope


@pytest.mark.parametrize("name", sorted(LEADING))
def test_S4_1_each_is_imported_alone_and_without_temporal(name: str) -> None:
    code = f"""
import sys
sys.modules["temporalio"] = None
from towpath.adapters.activities import {name}
print({name}.__module__, *[m for m in ("temporalio", "towpath.adapters.wiring", "towpath.adapters.local") if
    sys.modules.get(m)])"""
    module = python(code)
    assert module.startswith("towpath.adapters.activities.")
    assert " " not in module


def test_S4_1_the_package_itself_loads_nothing() -> None:
    code = "import sys, towpath.adapters.activities; print(*[m for m in ('httpx', 'sqlalchemy') if m in sys.modules])"
    assert python(code) == ""


def test_without_the_extra_the_error_names_the_cure() -> None:
    code = """
import sys
sys.modules["httpx"] = None
from towpath.errors import FeatureMissing
try:
    from towpath.adapters.activities import select_best_server
except FeatureMissing as error:
    print(error.code, error.problem.cure)"""
    assert python(code) == 'E_FEATURE_MISSING pip install "towpath[comfyui]"'
