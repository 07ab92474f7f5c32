"""The seed's functions under the seed's names. Each works without a chain, an engine or Temporal.

    address = await select_best_server("least_loaded")
    done = await execute_and_track_workflow(address, graph)
    files = await get_server_output_files(address, done)
    pictures = await download_and_store_images(address, files)

Their leading parameters are the seed's; added parameters are keyword-only. Servers come from `servers=` or
`towpath.toml`. The store is `store=`, or the configured one, opened for the call. A function is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from towpath.errors import FeatureMissing

if TYPE_CHECKING:
    from .database_operations import create_chain_record as create_chain_record
    from .database_operations import create_workflow_record as create_workflow_record
    from .database_operations import get_workflow_artifacts as get_workflow_artifacts
    from .database_operations import update_chain_status_activity as update_chain_status_activity
    from .database_operations import update_workflow_status_activity as update_workflow_status_activity
    from .download_artifacts import download_and_store_images as download_and_store_images
    from .download_artifacts_db import download_and_store_artifacts as download_and_store_artifacts
    from .execute_workflow import execute_and_track_workflow as execute_and_track_workflow
    from .execution_log import create_execution_log as create_execution_log
    from .server_access import select_best_server as select_best_server
    from .server_outputs import get_server_output_files as get_server_output_files
    from .step_parameters import apply_workflow_parameters as apply_workflow_parameters
    from .step_parameters import evaluate_chain_condition as evaluate_chain_condition
    from .step_parameters import resolve_chain_templates as resolve_chain_templates
    from .transfer_artifacts import transfer_artifacts_from_storage as transfer_artifacts_from_storage
    from .transfer_artifacts import transfer_outputs_to_input as transfer_outputs_to_input

_MODULES = {
    "apply_workflow_parameters": "step_parameters",
    "create_chain_record": "database_operations",
    "create_execution_log": "execution_log",
    "create_workflow_record": "database_operations",
    "download_and_store_artifacts": "download_artifacts_db",
    "download_and_store_images": "download_artifacts",
    "evaluate_chain_condition": "step_parameters",
    "execute_and_track_workflow": "execute_workflow",
    "get_server_output_files": "server_outputs",
    "get_workflow_artifacts": "database_operations",
    "resolve_chain_templates": "step_parameters",
    "select_best_server": "server_access",
    "transfer_artifacts_from_storage": "transfer_artifacts",
    "transfer_outputs_to_input": "transfer_artifacts",
    "update_chain_status_activity": "database_operations",
    "update_workflow_status_activity": "database_operations",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll] - one list of names is enough


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ImportError as error:
        if error.name not in ("httpx", "websockets"):
            raise
        cure = 'pip install "towpath[comfyui]"'
        raise FeatureMissing("E_FEATURE_MISSING", "ComfyUI servers need more packages", cure=cure) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
