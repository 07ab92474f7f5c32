"""The audit trail as a stream: live, replayed exactly, with a sign of life, and never waiting for the slow."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from towpath.adapters.http import event_feed
from towpath.adapters.http.event_feed import EventFeed, Watcher
from towpath.store import Record

from .conftest import OpenSite, Site
from .serving import PATIENCE, eventually, on_a_socket
from .steps import plain, sleepy, story

pytestmark = pytest.mark.anyio


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """(kind, data) of each event; `#` for comments. Data of messages have their `id`."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            yield "#", line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            data = json.loads(fields["data"])
            yield fields.get("event", "message"), {**data, **({"id": fields["id"]} if "id" in fields else {})}
            fields = {}
        else:
            fields = {}


async def collected(url: str, key: str, path: str, **headers: str) -> list[tuple[str, Any]]:
    """Everything of a stream until it ends."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers={"Authorization": f"Bearer {key}"}) as client:
        wanted = {"Accept": "text/event-stream", **headers}
        async with client.stream("GET", path, headers=wanted) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            return [event async for event in events(answer) if event[0] != "#"]


async def test_a_run_is_followed_from_its_first_line_to_its_last(site: Site) -> None:
    """A watcher from the start gets every recorded line once, in order, and then the end."""
    async with on_a_socket(site.app) as url:
        run = await site.engine.run(story)
        seen: list[tuple[str, Any]] = []

        async def watch() -> None:
            seen.extend(await collected(url, site.keys["viewer"], f"/api/v1/chains/{run.id}/events"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await eventually(lambda: site.app.state.feed.watcher_count == 1)
            (gate,) = await site.engine.approvals()
            await site.engine.approve(gate, by="Ann")
            assert (await run.resume()).status == "completed"
    recorded = await site.engine.store.events(run.id)
    assert [e["seq"] for kind, e in seen if kind == "message"] == [e["seq"] for e in recorded]
    assert [e["id"] for kind, e in seen if kind == "message"] == [str(e["seq"]) for e in recorded]
    assert seen[-1] == ("end", {"status": "completed"})


async def test_whoever_comes_back_misses_nothing_and_gets_nothing_twice(site: Site) -> None:
    """`Last-Event-ID` at every line of a run: exactly the rest. After the last there is nothing: 204."""
    run = await site.engine.run(plain)
    all_of_it = [e["seq"] for e in await site.engine.store.events(run.id)]
    path = f"/api/v1/chains/{run.id}/events"
    async with on_a_socket(site.app) as url:
        for n, seq in enumerate(all_of_it[:-1]):
            rest = await collected(url, site.keys["viewer"], path, **{"Last-Event-ID": str(seq)})
            assert [e["seq"] for kind, e in rest if kind == "message"] == all_of_it[n + 1 :]
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(all_of_it[-1])}
        assert (await site.get(path, headers=headers)).status_code == 204


async def test_interrupted_again_and_again_while_runs_go_on(site: Site) -> None:
    """A watcher that is cut off at random places puts together the whole trail of all runs, without a double."""
    last = 0
    async with on_a_socket(site.app) as url:
        seen: list[int] = []
        done = anyio.Event()

        async def watch() -> None:
            headers = {"Authorization": f"Bearer {site.keys['viewer']}", "Accept": "text/event-stream"}
            turn = 0
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers=headers) as client:
                while not done.is_set() or seen[-1:] != [last]:
                    turn += 1
                    came = {"Last-Event-ID": str(seen[-1] if seen else 0)}
                    async with client.stream("GET", "/api/v1/events", headers=came) as answer:
                        taken = 0
                        async for kind, event in events(answer):
                            if kind == "message":
                                seen.append(event["seq"])
                                taken += 1
                            if taken >= turn % 7 + 1 or (done.is_set() and seen[-1:] == [last]):
                                break

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                for n in range(12):
                    await site.engine.run(plain, text=str(n))
                last = await site.app.state.records.last_event()
                done.set()
    assert seen == list(range(1, last + 1))


async def test_numbers_are_never_given_twice(site: Site) -> None:
    """A run that is deleted takes its lines along, and not their numbers."""
    run = await site.engine.run(plain)
    last = await site.app.state.records.last_event()
    await site.engine.delete_chain(run.id)
    again = await site.engine.run(plain)
    assert (await site.engine.store.events(again.id))[0]["seq"] == last + 1


async def test_a_quiet_stream_shows_that_it_lives_and_ends_with_its_key(open_site: OpenSite) -> None:
    """A sign of life now and then; a key that was revoked is noticed with the next one."""
    async with open_site(heartbeat=0.05) as site, on_a_socket(site.app) as url:
        run = await site.engine.run(story)
        rows = (await site.get("/api/v1/keys", "admin")).json()["rows"]
        name = next(row["name"] for row in rows if row["role"] == "viewer")
        headers = {"Authorization": f"Bearer {site.keys['viewer']}", "Accept": "text/event-stream"}
        beats, revoked = 0, False
        checks: list[bool] = []
        still_valid = site.app.state.authenticator.still_valid

        async def checked(*who: Any) -> bool:
            begun_after, valid = revoked, await still_valid(*who)
            checks.extend([valid] if begun_after else [])
            return bool(valid)

        site.app.state.authenticator.still_valid = checked
        with anyio.fail_after(PATIENCE):
            async with (
                httpx.AsyncClient(base_url=url, timeout=PATIENCE, headers=headers) as client,
                client.stream("GET", f"/api/v1/chains/{run.id}/events") as answer,
            ):
                async for kind, _ in events(answer):
                    beats += kind == "#"
                    if beats == 3:
                        await site.app.state.records.revoke_key(name)
                        revoked = True
        assert beats >= 3
        assert checks in ([], [False]), "no heartbeat is sent after the first check"
        assert site.app.state.feed.watcher_count == 0


async def test_a_busy_stream_ends_with_its_key_as_well(open_site: OpenSite) -> None:
    """After its key is revoked, a watcher gets no more lines, also of a busy stream."""
    async with open_site(heartbeat=0.1) as site:
        feed: EventFeed = site.app.state.feed
        run = await site.engine.run(story)
        good = True

        async def still_good() -> bool:
            return good

        async def chatter() -> None:
            seq = 1_000_000
            while True:
                seq += 1
                for watcher in list(feed._watchers):
                    watcher.push(Record(seq=seq, chain_id=run.id, type="X", at=0, data={}, workflow_id=None))
                await anyio.sleep(0.005)

        heard = 0
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(chatter)
                async for line in feed.stream(run.id, 0, ended="", heartbeat=0.1, still_valid=still_good):
                    heard += b'"type":"X"' in line
                    good = heard < 20
                tasks.cancel_scope.cancel()
        assert 20 <= heard < 200


async def test_a_number_of_another_store_does_not_silence_a_stream(site: Site) -> None:
    """A browser that comes back with a number that was never given here hears what happens from now on."""
    async with on_a_socket(site.app) as url:
        run = await site.engine.run(story)
        seen: list[tuple[str, Any]] = []

        async def watch() -> None:
            headers = {"Last-Event-ID": "999999999"}
            seen.extend(await collected(url, site.keys["viewer"], f"/api/v1/chains/{run.id}/events", **headers))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await eventually(lambda: site.app.state.feed.watcher_count == 1)
                (gate,) = await site.engine.approvals()
                await site.engine.approve(gate, by="Ann")
                await run.resume()
    assert next(e["type"] for kind, e in seen if kind == "message") == "DecisionRecorded"
    assert seen[-1] == ("end", {"status": "completed"})


@pytest.mark.parametrize("path", ["/api/v1/events", "/api/v1/chains/{id}/events"])
async def test_the_head_of_a_stream_ends(site: Site, path: str) -> None:
    """HEAD only returns headers; it opens no stream."""
    handle = await site.engine.start(sleepy)
    headers = {"Accept": "text/event-stream"}
    with anyio.fail_after(PATIENCE):
        async with site.client("viewer") as client:
            answer = await client.head(path.format(id=handle.id), headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    await handle.cancel()
    await handle.result(check=False)


async def test_the_slow_are_sent_away_to_come_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of one who does not read is bounded; the others get everything."""
    monkeypatch.setattr(event_feed, "BACKLOG", 3)
    feed: EventFeed = site.app.state.feed
    async with feed.watch(None) as slow, feed.watch("other") as other:
        await site.engine.run(plain)
        await eventually(lambda: slow.dropped)
        assert len(slow.lines) == 0
        assert not other.dropped
        assert len(other.lines) == 0
    stream = feed.stream(None, 0, ended="", heartbeat=1, still_valid=_good)
    assert await anext(stream) == b"retry: 1000\n\n"
    await stream.aclose()


async def _good() -> bool:
    return True


async def test_one_reader_however_many_watch(open_site: OpenSite) -> None:
    """Fifty watchers cost the store no more than one. Only facts wake the reader here, and no clock."""
    async with open_site(poll=3_600) as site:
        await _count_reads(site)


async def _count_reads(site: Site) -> None:
    records = site.app.state.records
    reads = 0
    plain_read = records.events_after

    async def counted(seq: int, **which: Any) -> Any:
        nonlocal reads
        reads += not which
        return await plain_read(seq, **which)

    records.events_after = counted
    feed: EventFeed = site.app.state.feed
    async with anyio.create_task_group() as tasks:
        watchers: list[Watcher] = []

        async def watch() -> None:
            async with feed.watch(None) as watcher:
                watchers.append(watcher)
                await anyio.sleep_forever()

        for _ in range(50):
            tasks.start_soon(watch)
        await eventually(lambda: len(watchers) == 50)
        reads = 0
        run = await site.engine.run(plain)
        wanted = [e["seq"] for e in await site.engine.store.events(run.id)]
        await eventually(lambda: all(len(w.lines) >= len(wanted) for w in watchers))
        assert all([line["seq"] for line in w.lines] == wanted for w in watchers)
        assert reads < 60
        tasks.cancel_scope.cancel()


async def test_as_a_list(site: Site) -> None:
    """The same lines as JSON, in pages."""
    run = await site.engine.run(plain)
    path = f"/api/v1/chains/{run.id}/events"
    first = (await site.get(path, params={"limit": "4"})).json()
    rest = (await site.get(path, params={"after": first["next"]})).json()
    recorded = [e["seq"] for e in await site.engine.store.events(run.id)]
    assert [e["seq"] for e in first["rows"] + rest["rows"]] == recorded
    assert rest["next"] is None
    assert (await site.get(path, params={"after": "x"})).status_code == 422


async def test_streams_end_when_the_server_does(site: Site) -> None:
    """A watcher of an active run does not delay the stop."""
    handle = await site.engine.start(sleepy)
    ended = anyio.Event()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks, on_a_socket(site.app) as url:

            async def watch() -> None:
                await collected(url, site.keys["viewer"], f"/api/v1/chains/{handle.id}/events")
                ended.set()

            tasks.start_soon(watch)
            await eventually(lambda: site.app.state.feed.watcher_count == 1)
            assert not ended.is_set()
    assert ended.is_set()
    await handle.cancel()
    await handle.result(check=False)
