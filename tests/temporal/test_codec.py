"""A user's payload codec: Temporal's histories contain no readable values."""

from __future__ import annotations

import base64
import dataclasses
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.fernet import Fernet
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, PayloadCodec

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import pending, settled
from tests.conformance.chain_steps import PATIENCE
from tests.temporal.dev_server import DevServer, listed
from towpath import chain, step
from towpath.adapters.temporal.connection import parse_address

pytestmark = pytest.mark.anyio


class Encrypting(PayloadCodec):
    """Encrypts payloads."""

    def __init__(self) -> None:
        self._box = Fernet(Fernet.generate_key())
        self.encoded = 0

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        self.encoded += len(payloads)
        return [
            Payload(metadata={"encoding": b"binary/encrypted"}, data=self._box.encrypt(payload.SerializeToString()))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        found = []
        for payload in payloads:
            assert payload.metadata["encoding"] == b"binary/encrypted"
            found.append(Payload.FromString(self._box.decrypt(payload.data)))
        return found


@step(retry={"attempts": 2, "delay": 0.1})
async def telltale(secret: str) -> str:
    raise ValueError(f"cannot use {secret}")


def plain_payloads(data: Any) -> Iterator[Any]:
    """The payloads of a history that are not encoded."""
    if isinstance(data, dict):
        if data.get("metadata", {}).get("encoding") == base64.b64encode(b"json/plain").decode():
            yield json.loads(base64.b64decode(data["data"]))
        for each in data.values():
            yield from plain_payloads(each)
    elif isinstance(data, list):
        for each in data:
            yield from plain_payloads(each)


async def test_histories_hold_no_plain_value(
    open_engine: OpenEngine, adapter: str, temporal_server: DevServer, store: Path
) -> None:
    """Values, parameters, the plan, decisions, and the texts of errors, at every level: values never travel, and what
    does is encoded. Only names (of runs, steps, queues) and codes of errors can be read.
    """

    @chain
    def inner(secret: str):
        return steps.echo(secret)

    @chain
    def outer(secret: str):
        known = inner(secret=secret)
        each = steps.echo.map([secret, secret])
        bad = telltale(secret)
        return known, each, steps.draft(secret), steps.echo(secret).when("telltale.status == 'failed'").after(bad)

    codec = Encrypting()
    converter = dataclasses.replace(DataConverter.default, payload_codec=codec)
    client = await Client.connect(temporal_server.target, data_converter=converter)
    async with open_engine(temporal=client) as engine:
        run = await engine.run(outer, secret="walnut")
        await engine.approve(await pending(engine, run), by="walnut the cat", reason="walnut is fine")
        with anyio.fail_after(PATIENCE):
            run = await engine.resume(run.id, check=False)
        assert run["telltale"].error is not None
        assert run["telltale"].error.message == "ValueError: cannot use walnut"
        await settled(engine, run)
    assert codec.encoded > 50
    plain = await Client.connect(temporal_server.target)
    queue = parse_address(adapter).task_queue
    for each in await listed(plain, f"TaskQueue = '{queue}'", 8):
        history = (await plain.get_workflow_handle(each.id, run_id=each.run_id).fetch_history()).to_json()
        assert "walnut" not in history
        assert "d2FsbnV0" not in history, "in base64"
        for payload in plain_payloads(json.loads(history)):
            assert set(payload) & {"seq", "activity_type"}, "not the SDK's own note of when and which activity"
        assert "YmluYXJ5L2VuY3J5cHRlZA==" in history, "binary/encrypted"
        assert b"walnut" not in each.raw_info.SerializeToString()
    with closing(sqlite3.connect(store)) as database:  # the check of the check: the store has it
        assert database.execute("SELECT count(*) FROM workflows WHERE value LIKE '%walnut%'").fetchone()[0] > 1
