"""Parameters on their way into the graph of a workflow file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from towpath.adapters.comfyui.parameters import apply_parameters
from towpath.adapters.comfyui.workflow_files import Workflow, read_workflow
from towpath.adapters.settings import settle
from towpath.chain_files import find_workflow
from towpath.errors import InputInvalid, Place


async def apply_workflow_parameters(
    workflow_name: str, parameters: Mapping[str, Any], *, folder: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """The graph of the workflow file `<folder>/<name>.json` with these values in it; the file stays as it is.

    Keys are `<node id>.<input>`, or `<title>.<input>` for a title that one node has alone. If there is an override
    file, only what it lists may be set. `folder` is that of the settings (`workflows`) unless it is given.

    Raises:
        InputInvalid: E_WORKFLOW_…, E_REF_PATH for the file; E_PARAMETER_UNKNOWN (which lists the keys allowed),
            E_PARAMETER_TYPE, E_PARAMETER_LINK, E_PARAMETER_AMBIGUOUS for a parameter.
    """
    home = settle().workflows if folder is None else Path(folder)
    return apply_parameters(await run_sync(_read, workflow_name, home), parameters)


def _read(name: str, folder: Path) -> Workflow:
    path = find_workflow(name, folder)
    if path is None:
        cure = f"save it from ComfyUI with Export (API) as {folder.name}/{name}.json"
        raise InputInvalid("E_WORKFLOW_FILE", f"there is no workflow {name}", place=Place(field=name), cure=cure)
    return read_workflow(path, name)
