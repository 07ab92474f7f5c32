"""The store's functions as methods, each in a transaction of its own. Rows are returned as frozen records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

from towpath.late import LateNames, meant

if TYPE_CHECKING:
    from towpath import records

    from . import approvals, artifacts, chains, transfers, workflows
    from .rows import Record
    from .runs import RunStore
    from .session import Session
else:
    records = LateNames("towpath.records")
    approvals, artifacts = LateNames("towpath.store.approvals"), LateNames("towpath.store.artifacts")
    chains, transfers = LateNames("towpath.store.chains"), LateNames("towpath.store.transfers")
    workflows = LateNames("towpath.store.workflows")

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
N = TypeVar("N", bound="records.FrozenRow")


class StoreMethod(Generic[P, T_co]):
    """A function of the store as a method: it opens a session, calls the function with it, and commits."""

    def __init__(self, function: Callable[..., Awaitable[Any]], shape: Callable[[Any], T_co]) -> None:
        self._function = function
        self._shape = shape

    @property
    def __wrapped__(self) -> Callable[..., Awaitable[Any]]:
        return meant(self._function)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__wrapped__.__doc__

    @property
    def __name__(self) -> str:
        return self.__wrapped__.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> StoreMethod[P, T_co]: ...
    @overload
    def __get__(self, instance: StoreFunctions, owner: type) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
    def __get__(self, instance: StoreFunctions | None, owner: type) -> Any:
        return self if instance is None else partial(self._call, instance)

    async def _call(self, instance: StoreFunctions, /, *args: Any, **kwargs: Any) -> T_co:
        async with instance._run_store.session() as session:
            return self._shape(await self._function(session, *args, **kwargs))


@overload
def _method(function: Callable[Concatenate[Session, P], Awaitable[Record]], kind: type[N]) -> StoreMethod[P, N]: ...
@overload
def _method(
    function: Callable[Concatenate[Session, P], Awaitable[Record | None]], kind: type[N]
) -> StoreMethod[P, N | None]: ...
@overload
def _method(
    function: Callable[Concatenate[Session, P], Awaitable[list[Record]]], kind: type[N]
) -> StoreMethod[P, list[N]]: ...
def _method(function: Callable[..., Awaitable[Any]], kind: type[N]) -> StoreMethod[..., Any]:
    """A function of the store whose rows become records of that kind."""

    def shape(found: Mapping[str, Any] | list[Record] | None) -> Any:
        if isinstance(found, list):
            return [kind.of(row) for row in found]
        return None if found is None else kind.of(found)

    return StoreMethod(function, shape)


def _plain(function: Callable[Concatenate[Session, P], Awaitable[T]]) -> StoreMethod[P, T]:
    """A function of the store that returns no rows."""

    def same(found: T) -> T:
        return found

    return StoreMethod(function, same)


class StoreFunctions:
    """`await engine.get_workflow(id)` opens a session, calls `towpath.store.get_workflow` with it, and commits."""

    def __init__(self, store: RunStore) -> None:
        self._run_store = store

    create_chain: Final = _method(chains.create_chain, records.ChainRecord)  # type: ignore[arg-type]  # mypy: **columns may be it
    get_chain: Final = _method(chains.get_chain, records.ChainRecord)
    get_chain_by_temporal_id: Final = _method(chains.get_chain_by_temporal_id, records.ChainRecord)
    get_chain_details: Final = _method(chains.get_chain_details, records.ChainDetails)
    update_chain_status: Final = _method(chains.update_chain_status, records.ChainRecord)
    list_chains: Final = _method(chains.list_chains, records.ChainRecord)
    delete_chain: Final = _plain(chains.delete_chain)

    create_workflow: Final = _method(workflows.create_workflow, records.WorkflowRecord)
    get_workflow: Final = _method(workflows.get_workflow, records.WorkflowRecord)
    get_workflow_by_prompt: Final = _method(workflows.get_workflow_by_prompt, records.WorkflowRecord)
    get_workflow_by_step: Final = _method(workflows.get_workflow_by_step, records.WorkflowRecord)
    get_workflows_by_chain: Final = _method(workflows.get_workflows_by_chain, records.WorkflowRecord)
    update_workflow_status: Final = _method(workflows.update_workflow_status, records.WorkflowRecord)
    update_workflow_latest_artifact: Final = _method(workflows.update_workflow_latest_artifact, records.WorkflowRecord)
    list_workflows: Final = _method(workflows.list_workflows, records.WorkflowRecord)
    list_items: Final = _method(workflows.list_items, records.ItemRecord)
    count_items: Final = _plain(workflows.count_items)
    delete_workflow: Final = _plain(workflows.delete_workflow)

    create_artifact: Final = _method(artifacts.create_artifact, records.ArtifactRecord)
    edit_artifact: Final = _method(artifacts.edit_artifact, records.ArtifactRecord)
    get_artifact: Final = _method(artifacts.get_artifact, records.ArtifactRecord)
    get_latest_artifact: Final = _method(artifacts.get_latest_artifact, records.ArtifactRecord)
    get_artifacts_by_workflow: Final = _method(artifacts.get_artifacts_by_workflow, records.ArtifactRecord)
    get_artifact_versions: Final = _method(artifacts.get_artifact_versions, records.ArtifactRecord)
    update_artifact_latest_flag: Final = _method(artifacts.update_artifact_latest_flag, records.ArtifactRecord)
    approve_artifact: Final = _method(artifacts.approve_artifact, records.ArtifactRecord)
    reject_artifact: Final = _method(artifacts.reject_artifact, records.ArtifactRecord)
    list_artifacts: Final = _method(artifacts.list_artifacts, records.ArtifactRecord)
    next_version: Final = _plain(artifacts.next_version)
    delete_artifact: Final = _plain(artifacts.delete_artifact)

    create_transfer: Final = _method(transfers.create_transfer, records.TransferRecord)
    get_transfer: Final = _method(transfers.get_transfer, records.TransferRecord)
    update_transfer_status: Final = _method(transfers.update_transfer_status, records.TransferRecord)
    list_transfers: Final = _method(transfers.list_transfers, records.TransferRecord)
    delete_transfer: Final = _plain(transfers.delete_transfer)

    create_approval: Final = _method(approvals.create_approval, records.Gate)
    get_approval: Final = _method(approvals.get_approval, records.Gate)
    list_approvals: Final = _method(approvals.list_approvals, records.Gate)
    get_pending_approvals: Final = _method(approvals.get_pending_approvals, records.PendingGate)
    cancel_approval: Final = _method(approvals.cancel_approval, records.Gate)


class Records(StoreFunctions):
    """All functions of the store as methods, those that decide a gate included."""

    approve: Final = _method(approvals.approve, records.Gate)
    reject: Final = _method(approvals.reject, records.Gate)
