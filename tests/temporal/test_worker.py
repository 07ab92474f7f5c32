"""The worker: what it registers, how it is started and stopped, what its workflows import, and replay."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.request import urlopen

import anyio
import pytest
from temporalio.client import Client

from tests.adapters.conftest import OpenEngine
from tests.conformance import chain_steps as steps
from tests.conformance.adapter import folder, until
from tests.conformance.chain_steps import PATIENCE, began, let_go
from tests.temporal.dev_server import free_ports, listed, needs_server
from tests.temporal.test_crashes import worker
from towpath import FeatureMissing, InputInvalid, ServerFailed, StepNotRegistered, chain, step
from towpath import open_engine as open_real_engine
from towpath.adapters.temporal import messages, run_activities, run_driver, step_activities, workflows
from towpath.adapters.temporal.connection import TemporalAddress, parse_address

__all__ = ["folder"]

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]


def test_S8_1_everything_that_workflows_ask_for_is_registered() -> None:
    """The names in workflow code are the names that a worker registers."""
    code = "".join(Path(str(m.__file__)).read_text() for m in (run_driver, workflows))
    calls = re.findall(
        r"(?:local_activity|execute_activity)\(\s*messages\.([A-Z_]+)(?: if [^,]+ else messages\.([A-Z_]+))?", code
    )
    asked = {getattr(messages, name) for call in calls for name in call if name}
    assert asked == set(messages.ACTIVITIES)
    given = "".join(Path(str(m.__file__)).read_text() for m in (run_activities, step_activities))
    assert {getattr(messages, name) for name in re.findall(r"defn\(name=messages\.([A-Z_]+)\)", given)} == asked


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("temporal://", TemporalAddress()),
        ("temporal://host", TemporalAddress("host:7233")),
        ("temporal://[::1]:1234/ns", TemporalAddress("[::1]:1234", "ns")),
        ("temporal://h:1/ns?task_queue=gpu&heartbeat=30s", TemporalAddress("h:1", "ns", "gpu", 30.0)),
    ],
)
def test_S8_2_addresses(url: str, address: TemporalAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "temporal://h:x/ns",
        "temporal://h/a/b",
        "temporal://h?queue=x",
        "temporal://u:p@h",
        "temporal://h#x",
        "temporal://h?heartbeat=1ms",
        "temporal://h?granularity=level",
    ],
)
def test_S8_2_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        parse_address(url)
    assert refused.value.code == "E_SETTING"


async def test_a_server_that_is_not_there(store: Path, clean_environment: None) -> None:
    """With a worker, opening fails at once; without one, the first start fails."""
    with pytest.raises(ServerFailed) as at_once:
        async with open_real_engine(f"sqlite:///{store}", adapter="temporal://127.0.0.1:1/x", worker=True):
            pass
    assert at_once.value.code == "E_TEMPORAL_UNREACHABLE"

    @chain
    def one():
        return steps.number(1)

    async with open_real_engine(f"sqlite:///{store}", adapter="temporal://127.0.0.1:1/x") as engine:
        with pytest.raises(ServerFailed):
            await engine.run(one)


async def test_a_function_that_no_worker_can_import(open_engine: OpenEngine) -> None:
    @step
    async def closure() -> int:
        return 1

    @chain
    def one():
        return closure()

    async with open_engine() as engine:
        with pytest.raises(StepNotRegistered) as refused:
            await engine.run(one)
        assert refused.value.code == "E_STEP_NOT_IMPORTABLE"
        assert "@step(name=" in refused.value.problem.cure
        assert await engine.list_chains() == []


async def test_a_step_that_the_worker_does_not_know(open_engine: OpenEngine, tmp_path: Path) -> None:
    """It fails with a reason; it does not hang."""
    from towpath import load_chain
    from towpath.steps import _registry

    (tmp_path / "elsewhere.py").write_text("from towpath import step\n\n\n@step(retries=3)\ndef one():\n    return 1\n")
    (tmp_path / "c.yaml").write_text("name: c\nsteps:\n  - {id: a, python: 'elsewhere:one'}\n")
    loaded = load_chain(tmp_path / "c.yaml")
    del _registry["elsewhere:one"], sys.modules["elsewhere"]
    (tmp_path / "elsewhere.py").unlink()
    async with open_engine() as engine:
        run = await engine.run(loaded, check=False)
        assert run.status == "failed"
        assert run["a"].error is not None
        assert run["a"].error.code == "E_STEP_NOT_REGISTERED"


async def test_the_verb_works_until_it_is_stopped(
    open_engine: OpenEngine, adapter: str, tmp_path: Path, folder: str
) -> None:
    """It creates its store, prints what it registered, executes steps, and gives a running step its grace time."""

    @chain
    def held(folder: str):
        return steps.hold(folder, "held")

    store = tmp_path / "towpath.db"
    command = [sys.executable, "-m", "towpath", "worker", "--store", str(store), "--adapter", adapter]
    command += ["--import", "tests.conformance.chain_steps", "--grace", "20s"]
    process = await anyio.open_process(command, cwd=ROOT, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        said = ""
        with anyio.fail_after(PATIENCE):
            while "steps: " not in said:
                said += (await process.stdout.receive()).decode()
        assert "workflows: Chain Step\n" in said
        for name in (*messages.ACTIVITIES, "select_best_server", "execute_and_track_workflow"):
            assert f" {name}" in said
        assert "tests.conformance.chain_steps:hold" in said
        async with open_engine(worker=False) as engine:
            handle = await engine.start(held, folder=folder)
            await began(folder, "held")
            process.send_signal(signal.SIGTERM)
            await anyio.sleep(0.5)
            let_go(folder, "held")
            with anyio.fail_after(PATIENCE):
                assert await process.wait() == 0
            row = (await engine.get_workflows_by_chain(handle.id))[0]
            assert (row.status, row.attempt) == ("completed", 1)
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def test_the_verb_serves_metrics(open_engine: OpenEngine, adapter: str, store: Path) -> None:
    """Prometheus finds the SDK's metrics on the port, on this host only."""

    @chain
    def one():
        return steps.number(1)

    (port,) = free_ports(1)
    command = [sys.executable, "-m", "towpath", "worker", "--store", str(store), "--adapter", adapter]
    command += ["--import", "tests.conformance.chain_steps", "--grace", "0", "--metrics-port", str(port)]
    async with open_engine(worker=False) as engine, await anyio.open_process(command, cwd=ROOT) as process:
        try:
            with anyio.fail_after(PATIENCE):
                assert (await engine.run(one)).value == 1
            said = await anyio.to_thread.run_sync(fetched, port)
            assert "temporal_workflow_completed" in said
            assert 'temporal_activity_execution_latency_count{activity_type="run_step"' in said
            listening = await anyio.run_process(["cat", "/proc/net/tcp"])
            assert f"0100007F:{port:04X}" in listening.stdout.decode()
            assert f"00000000:{port:04X}" not in listening.stdout.decode()
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(PATIENCE):
                assert await process.wait() in (0, 130)
        finally:
            if process.returncode is None:
                process.kill()


def fetched(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


async def test_the_verb_with_a_metrics_port_that_is_taken(adapter: str, store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "towpath", "worker", "--store", str(store), "--adapter", adapter]
        command += ["--metrics-port", str(taken.getsockname()[1])]
        with anyio.fail_after(PATIENCE):
            done = await anyio.run_process(command, cwd=ROOT, check=False)
    assert done.returncode in (2, 4)
    said = (done.stdout + done.stderr).decode()
    assert "Traceback" not in said
    assert "metrics" in said


async def test_a_broken_profile_of_temporals_is_named(
    store: Path, tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporal.toml").write_text("[profile.default\n")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "temporal.toml"))
    with pytest.raises(InputInvalid) as refused:
        async with open_real_engine(f"sqlite:///{store}", adapter="temporal://127.0.0.1:1/x"):
            pass
    assert refused.value.code == "E_SETTING"
    assert "profile" in str(refused.value)


async def test_the_dev_verb_is_a_server_for_the_laptop(
    tmp_path: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the documentation says: the server in one terminal, a worker in the second, a script in the third. With a
    file, its state survives a restart. It stops at SIGTERM.
    """
    needs_server()
    port, pages = free_ports(2)
    start = [sys.executable, "-m", "towpath", "temporal", "dev", "--port", str(port), "--ui-port", str(pages)]
    start += ["--db", str(tmp_path / "dev.db")]
    adapter, store = f"temporal://127.0.0.1:{port}/default", tmp_path / "towpath.db"

    @chain
    def one():
        return steps.number(1)

    for times in range(2):
        async with await anyio.open_process(start, cwd=tmp_path) as server:
            try:
                assert server.stderr is not None
                with anyio.fail_after(PATIENCE):
                    said = (await server.stderr.receive()).decode()
                    assert adapter in said
                    while True:
                        try:
                            async with open_real_engine(f"sqlite:///{store}", adapter=adapter, worker=True) as engine:
                                assert (await engine.run(one)).value == 1
                            break
                        except ServerFailed:
                            await anyio.sleep(0.2)
                page = await anyio.to_thread.run_sync(lambda: urlopen(f"http://127.0.0.1:{pages}/").status)
                assert page == 200
                client = await Client.connect(f"127.0.0.1:{port}")
                assert len(await listed(client, "WorkflowType = 'Chain'", times + 1)) == times + 1
                server.terminate()
                with anyio.fail_after(PATIENCE):
                    assert await server.wait() == 0
            finally:
                if server.returncode is None:
                    server.kill()


def test_the_workflows_import_nothing_heavy() -> None:
    """The modules that an import of workflow code loads, apart from Temporal's own."""
    code = """
        import sys
        import temporalio.workflow, temporalio.worker, temporalio.client
        before = set(sys.modules)
        import towpath.adapters.temporal.workflows
        heavy = {"networkx", "sqlalchemy", "databases", "aiosqlite", "httpx", "minijinja"}
        print(sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_dev_verb_needs_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from towpath.adapters.cli import temporal

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FeatureMissing) as missing:
        temporal._executable()
    assert "temporal-dev" in missing.value.problem.cure


async def test_a_run_without_a_worker_says_so_and_waits(
    open_engine: OpenEngine, store: Path, adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, with the command that starts a worker. The run continues as soon as there is one."""

    @chain
    def one():
        return steps.number(1)

    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if "has no worker" in r.getMessage()]

    async with open_engine(worker=False) as engine:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run, one)
            await until(warnings)
            assert "towpath worker --import" in warnings()[0]
            assert parse_address(adapter).task_queue in warnings()[0]
            await anyio.sleep(2)
            with worker(store, adapter):
                run_id = (await engine.list_chains())[0].id

                async def over() -> bool:
                    return (await engine.snapshot(run_id)).status.final

                await until(over)
        assert len(warnings()) == 1
