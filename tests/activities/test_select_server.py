"""S4.2: which server gets the next workflow."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.comfyui.graphs import slow
from tests.comfyui.running import ComfyServer
from tests.comfyui.talking import Client
from towpath import open_engine
from towpath.adapters.activities import select_best_server
from towpath.adapters.comfyui import pool
from towpath.errors import InputInvalid, ServerFailed

pytestmark = pytest.mark.anyio


async def picks(count: int, **how: Any) -> Counter[str]:
    """The addresses of that many selections made at once."""
    found: Counter[str] = Counter()

    async def one() -> None:
        found[await select_best_server(**how)] += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return found


@pytest.mark.parametrize("strategy", ["least_loaded", "round_robin"])
async def test_S4_2_two_idle_servers_share_100_simultaneous_selections(
    one: ComfyServer, two: ComfyServer, strategy: str
) -> None:
    # Each strategy gets tables of its own: selections of another test in this process count for half a minute.
    servers = [{"name": f"{strategy}-{s.port}", "url": s.url} for s in (one, two)]
    assert await picks(100, strategy=strategy, servers=servers) == {one.url: 50, two.url: 50}
    assert len(one.log("/system_stats")) < 10, "those who ask at the same time share an answer"


async def test_S4_2_selections_count_across_event_loops_too(one: ComfyServer, two: ComfyServer) -> None:
    servers = [{"name": f"again-{s.port}", "url": s.url} for s in (one, two)]

    def alone() -> Counter[str]:
        return Counter(anyio.run(lambda: select_best_server(servers=servers)) for _ in range(6))

    assert await anyio.to_thread.run_sync(alone) == {one.url: 3, two.url: 3}


async def test_S4_2_a_busy_server_is_passed_over(one: ComfyServer, two: ComfyServer) -> None:
    servers = [{"name": f"busy-{s.port}", "url": s.url} for s in (one, two)]
    with Client(one) as client:
        for seed in range(3):
            client.queue(slow(seed=seed))
    assert await picks(3, servers=servers) == {two.url: 3}


async def test_S4_2_random_and_pinned(one: ComfyServer, two: ComfyServer) -> None:
    servers = [{"name": "first", "url": one.url, "tags": ["a"]}, {"name": "second", "url": two.url, "tags": ["b"]}]
    assert set(await picks(40, strategy="random", servers=servers)) == {one.url, two.url}
    assert await picks(5, server_name="second", servers=servers) == {two.url: 5}
    assert await picks(5, tags={"a"}, servers=servers) == {one.url: 5}


async def test_S4_2_a_dead_server_is_passed_over_and_noticed_when_it_is_back(one: ComfyServer, tmp_path: Path) -> None:
    dead = ComfyServer(tmp_path / "dead")
    try:
        servers = [{"name": "dead", "url": dead.url}, {"name": "alive", "url": one.url}]
        began = time.monotonic()
        assert await picks(100, servers=servers) == {one.url: 100}
        for _ in range(5):
            assert await select_best_server(servers=servers) == one.url
        assert time.monotonic() - began < 30  # an unreachable server is retried for 60 s elsewhere
        dead.start()
        assert await select_best_server(servers=servers) == dead.url
    finally:
        dead.close()


async def test_S4_2_a_silent_server_is_passed_over_within_its_timeout(
    one: ComfyServer, two: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PROBE", 2.0)
    servers = [{"name": "silent", "url": two.url}, {"name": "speaks", "url": one.url}]
    two.control(answer_delay=30.0)
    began = time.monotonic()
    assert await picks(10, servers=servers) == {one.url: 10}
    assert time.monotonic() - began < 25  # it answers after 30 s


async def test_S4_2_none_is_a_typed_error(one: ComfyServer, tmp_path: Path) -> None:
    dead = ComfyServer(tmp_path / "dead")
    try:
        asked: tuple[dict[str, Any], ...] = (
            {"servers": []},
            {"servers": [dead.url]},
            {"servers": [one.url], "server_name": "other"},
            {"servers": [one.url], "tags": {"a100"}},
        )
        for how in asked:
            with pytest.raises(ServerFailed) as raised:
                await select_best_server(**how)
            assert raised.value.code == "E_SERVER_NONE"
    finally:
        dead.close()
    with pytest.raises(InputInvalid) as invalid:
        await select_best_server("best", servers=[one.url])
    assert invalid.value.code == "E_STRATEGY"


async def test_the_servers_of_the_settings_are_the_default(one: ComfyServer, here: Path) -> None:
    (here / "towpath.toml").write_text(f'[[servers]]\nname = "gpu"\nurl = "{one.url}"\n')
    assert await select_best_server() == one.url
    (here / "towpath.toml").write_text(f'[[servers]]\nname = "gpu"\nurl = "{one.url}"\n[comfyui]\nbusy = "long"\n')
    with pytest.raises(InputInvalid) as raised:
        await select_best_server()
    assert raised.value.code == "E_SETTING"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("unreachable = -5", "E_SETTING"),
        ("max_file = true", "E_SETTING"),
        ("busy = false", "E_SETTING"),
        ("download_timeout = 0", "E_SETTING"),
        ("no_such_key = 1", "E_SETTING"),
        ('strategy = "best"', "E_STRATEGY"),
    ],
)
async def test_a_wrong_setting_is_refused_by_the_functions_and_by_an_engine(here: Path, line: str, code: str) -> None:
    server = '[[servers]]\nname = "gpu"\nurl = "http://127.0.0.1:8188"\n'
    (here / "towpath.toml").write_text(f"{server}[comfyui]\n{line}\n")
    with pytest.raises(InputInvalid) as function:
        await select_best_server()
    with pytest.raises(InputInvalid) as engine:
        async with open_engine(here / "towpath.db"):
            pass
    assert function.value.code == engine.value.code == code
    assert str(function.value) == str(engine.value)
