"""The store: functions over one SQLite file. Each takes a session first, and never commits.

    await init_db()
    async with get_session() as session:
        chain = await create_chain(session, "demo")

A session commits when its block ends, and rolls back on any error. The functions have the names of the system that
towpath replaces ("the seed"). `open_store` keeps the store open; engines use it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from towpath.address import DEFAULT_STORE, Address, blob_folder, database_file, store_address
from towpath.late import names_of as _names_of

if TYPE_CHECKING:
    from .approvals import (
        approve,
        cancel_approval,
        create_approval,
        get_approval,
        get_pending_approvals,
        list_approvals,
        reject,
    )
    from .artifacts import (
        approve_artifact,
        create_artifact,
        delete_artifact,
        edit_artifact,
        get_artifact,
        get_artifact_versions,
        get_artifacts_by_workflow,
        get_latest_artifact,
        list_artifacts,
        next_version,
        reject_artifact,
        update_artifact_latest_flag,
    )
    from .chains import (
        create_chain,
        delete_chain,
        get_chain,
        get_chain_by_temporal_id,
        get_chain_details,
        list_chains,
        update_chain_status,
    )
    from .findings import Finding
    from .fsck import Report, fsck
    from .rows import Record
    from .runs import RunStore, open_store
    from .session import Session
    from .transfers import (
        create_transfer,
        delete_transfer,
        get_transfer,
        list_transfers,
        update_transfer_status,
    )
    from .workflows import (
        create_workflow,
        delete_workflow,
        get_workflow,
        get_workflow_by_prompt,
        get_workflow_by_step,
        get_workflows_by_chain,
        list_workflows,
        update_workflow_latest_artifact,
        update_workflow_status,
    )

__all__ = [
    "Finding",
    "Record",
    "Report",
    "RunStore",
    "Session",
    "approve",
    "approve_artifact",
    "cancel_approval",
    "create_approval",
    "create_artifact",
    "create_chain",
    "create_transfer",
    "create_workflow",
    "default_store",
    "delete_artifact",
    "delete_chain",
    "delete_transfer",
    "delete_workflow",
    "edit_artifact",
    "fsck",
    "get_approval",
    "get_artifact",
    "get_artifact_versions",
    "get_artifacts_by_workflow",
    "get_chain",
    "get_chain_by_temporal_id",
    "get_chain_details",
    "get_latest_artifact",
    "get_pending_approvals",
    "get_session",
    "get_transfer",
    "get_workflow",
    "get_workflow_by_prompt",
    "get_workflow_by_step",
    "get_workflows_by_chain",
    "init_db",
    "list_approvals",
    "list_artifacts",
    "list_chains",
    "list_transfers",
    "list_workflows",
    "next_version",
    "open_store",
    "reject",
    "reject_artifact",
    "update_artifact_latest_flag",
    "update_chain_status",
    "update_transfer_status",
    "update_workflow_latest_artifact",
    "update_workflow_status",
]

_HOMES = {
    "towpath.store.approvals": (
        "approve cancel_approval create_approval get_approval get_pending_approvals list_approvals reject"
    ),
    "towpath.store.artifacts": (
        "approve_artifact create_artifact delete_artifact edit_artifact get_artifact "
        "get_artifact_versions get_artifacts_by_workflow get_latest_artifact list_artifacts next_version "
        "reject_artifact update_artifact_latest_flag"
    ),
    "towpath.store.chains": (
        "create_chain delete_chain get_chain get_chain_by_temporal_id get_chain_details list_chains update_chain_status"
    ),
    "towpath.store.fsck": "Report fsck",
    "towpath.store.findings": "Finding",
    "towpath.store.rows": "Record",
    "towpath.store.runs": "RunStore open_store",
    "towpath.store.session": "Session",
    "towpath.store.transfers": "create_transfer delete_transfer get_transfer list_transfers update_transfer_status",
    "towpath.store.workflows": (
        "create_workflow delete_workflow get_workflow get_workflow_by_prompt get_workflow_by_step "
        "get_workflows_by_chain list_workflows update_workflow_latest_artifact update_workflow_status"
    ),
}

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    __getattr__ = _names_of(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)


def default_store(url: Address | None = None) -> AbstractAsyncContextManager[RunStore]:
    """The store at `url`, else at `TOWPATH_STORE`, `DATABASE_URL` or `sqlite:///towpath.db`; not opened yet.

    `TOWPATH_BLOBS` names its folder for larger files. Raises InputInvalid (E_STORE_URL), FeatureMissing.
    """
    address = store_address(url, os.environ)
    path = database_file(DEFAULT_STORE if address is None else address)
    from .runs import open_store  # noqa: PLC0415 - late, as all of the above

    return open_store(path, blobs=blob_folder(os.environ.get("TOWPATH_BLOBS") or None))


async def init_db(url: Address | None = None) -> None:
    """Make the store if it is not there, and migrate one of an older schema; harmless otherwise.

    Raises StoreFailed (E_DB_…, E_SCHEMA_…).
    """
    async with default_store(url):
        pass


@asynccontextmanager
async def get_session(url: Address | None = None) -> AsyncIterator[Session]:
    """A transaction in the store at `url` (else the default one), which is open for as long as it lasts."""
    async with default_store(url) as store, store.session() as session:
        yield session
