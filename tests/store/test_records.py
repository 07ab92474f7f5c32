"""What an engine hands out: a frozen record for every row, with a field for every column."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import sqlalchemy as sa

from tests.conformance.records import a_run, a_step, a_version
from towpath import records
from towpath.store import RunStore, tables
from towpath.store.facade import Records

pytestmark = pytest.mark.anyio

KINDS = (
    (records.ChainRecord, tables.chains),
    (records.WorkflowRecord, tables.workflows),
    (records.ArtifactRecord, tables.artifacts),
    (records.TransferRecord, tables.artifact_transfers),
    (records.Gate, tables.approvals),
)


@pytest.mark.parametrize(("kind", "table"), KINDS, ids=lambda part: getattr(part, "__name__", None))
def test_a_record_has_a_field_for_every_column(kind: type[records.FrozenRow], table: sa.Table) -> None:
    """A column that is added later must not be left out of what users get."""
    assert {field.name for field in fields(kind)} == {column.name for column in table.columns}


async def test_a_record_is_a_frozen_mapping(store: RunStore) -> None:
    lease = await a_run(store)
    row = await Records(store).get_workflow(await a_step(store, lease))
    assert row is not None
    assert (row.step_id, row["step_id"], dict(row)["step_id"]) == ("a", "a", "a")
    assert row == dict(row)
    with pytest.raises(FrozenInstanceError):
        row.step_id = "b"  # type: ignore[misc]
    with pytest.raises(KeyError):
        row["statsu"]


async def test_items_say_how_many_files_they_have(store: RunStore) -> None:
    lease = await a_run(store)
    row = await a_step(store, lease)
    await a_version(store, row)
    (item,) = await Records(store).list_items(lease.run_id, "a", after=-2)
    assert (item.id, item.files, item.approval) == (row, 1, None)
