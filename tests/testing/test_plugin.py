"""`towpath.testing` in projects of users, and its pytest plugin: real runs of pytest and of unittest (F16)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FLOWS = """
from towpath import Artifact, chain, context, step

@step
def train(lr: float) -> float:
    context().progress(1, 2)
    context().save("notes.txt", "slow")
    return lr * 2

@step
async def read(file: Artifact) -> str:
    return (await file.read_bytes()).decode()

@chain
def sweep(lr: float = 1.0):
    return train(lr)
"""
PLUGIN = 'pytest_plugins = ["towpath.testing"]\n'
BODY = """
    from flows import read, sweep, train
    from towpath import context
    from towpath.testing import artifact, engine, replaced

    def test_a_plain_call(step_context):
        assert train(2.0) == 4.0
        assert step_context.reports == [(1, 2)]
        assert step_context.files == {"notes.txt": b"slow"}
"""
ASYNC = """
    async def test_the_fixtures(towpath_engine, step_context):
        assert await read(artifact(b"text", "x.txt")) == "text"
        assert context() is step_context
        assert (await towpath_engine.run(sweep, lr=3.0)).value == 6.0
        with replaced({"train": lambda lr: 0.5}):
            assert (await towpath_engine.run(sweep)).value == 0.5

    async def test_nothing_is_left_of_the_other_test(towpath_engine):
        assert await towpath_engine.list_chains() == []

    async def test_an_engine_of_one_s_own():
        async with engine() as mine:
            assert (await mine.run(sweep)).value == 2.0
"""


def outcome(folder: Path, test: str, *options: str, conftest: str = PLUGIN, command: str = "pytest") -> str:
    """What a run of pytest in a project of its own prints."""
    (folder / "flows.py").write_text(FLOWS)
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_flows.py").write_text(textwrap.dedent(test))
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "TOWPATH_"))}
    environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", command, *options],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_F16_with_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    """The strict mode, where tests and fixtures are marked, and the automatic one."""
    body = textwrap.dedent(ASYNC)
    if mode == "strict":
        body = "\nimport pytest\n" + body.replace("async def", "@pytest.mark.asyncio\nasync def")
    shown = outcome(tmp_path, textwrap.dedent(BODY) + body, "-p", "no:anyio", "-o", f"asyncio_mode={mode}")
    assert "4 passed" in shown, shown
    assert "warning" not in shown, shown


@pytest.mark.parametrize("asyncio_too", [False, True])
def test_F16_with_anyio(tmp_path: Path, asyncio_too: bool) -> None:
    marked = textwrap.dedent(ASYNC).replace("async def", "@pytest.mark.anyio\nasync def")
    backend = '\nimport pytest\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    options = () if asyncio_too else ("-p", "no:asyncio")
    shown = outcome(tmp_path, textwrap.dedent(BODY) + backend + marked, *options)
    assert "4 passed" in shown, shown
    assert "warning" not in shown, shown


def test_F16_one_engine_and_loop_for_a_module(tmp_path: Path) -> None:
    """A fixture of the user's, with the scope of the module; and the plugin's, in the loop of the module."""
    test = """
        import pytest, pytest_asyncio
        from flows import sweep
        from towpath.testing import engine

        @pytest_asyncio.fixture(loop_scope="module", scope="module")
        async def shared():
            async with engine() as opened:
                yield opened

        @pytest.mark.asyncio(loop_scope="module")
        async def test_one(shared, towpath_engine):
            assert (await shared.run(sweep, run_id="r")).value == 2.0
            assert (await towpath_engine.run(sweep)).value == 2.0

        @pytest.mark.asyncio(loop_scope="module")
        async def test_two(shared):
            assert (await shared.snapshot("r")).value == 2.0
    """
    shown = outcome(tmp_path, test)
    assert "2 passed" in shown, shown


def test_F16_a_module_scoped_engine_with_anyio(tmp_path: Path) -> None:
    test = """
        import pytest
        from flows import sweep
        from towpath.testing import engine

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio"

        @pytest.fixture(scope="module")
        async def shared(anyio_backend):
            async with engine() as opened:
                yield opened

        async def test_one(shared):
            assert (await shared.run(sweep, run_id="r")).value == 2.0

        async def test_two(shared):
            assert (await shared.snapshot("r")).value == 2.0
    """
    shown = outcome(tmp_path, test)
    assert "2 passed" in shown, shown


def test_F16_with_unittest(tmp_path: Path) -> None:
    test = """
        import unittest
        from flows import sweep, train
        from towpath.testing import engine, step_context

        class Sweeps(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                self.engine = await self.enterAsyncContext(engine())
                self.step = self.enterContext(step_context())

            async def test_it(self):
                self.assertEqual((await self.engine.run(sweep)).value, 2.0)
                self.assertEqual(train(1.0), 2.0)
                self.assertEqual(self.step.reports, [(1, 2)])
    """
    shown = outcome(tmp_path, test, "-q", conftest="", command="unittest")
    assert "OK" in shown, shown


def test_F16_a_plain_test_cannot_have_an_engine(tmp_path: Path) -> None:
    test = """
        def test_plain(towpath_engine):
            pass
    """
    shown = outcome(tmp_path, test, "-p", "no:asyncio")
    assert "needs an async test" in shown, shown


def test_trio_is_refused_in_one_line(tmp_path: Path) -> None:
    """Without anyio's own fixture a test runs with each of its backends."""
    test = """
        import pytest

        @pytest.fixture(params=["asyncio", ("trio", {})])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        async def test_it(towpath_engine):
            pass
    """
    shown = outcome(tmp_path, test, "-p", "no:asyncio")
    assert "1 passed, 1 error" in shown, shown
    assert 'towpath needs asyncio: let the fixture anyio_backend return "asyncio"' in shown, shown


def test_F16_a_patched_module_is_used(tmp_path: Path) -> None:
    """python-trial 15: `monkeypatch.setattr(module, "step", fake)`; the next test has the real step again."""
    test = """
        import flows
        import pytest
        from towpath import step
        from towpath.testing import engine

        @step
        def fake(lr):
            return 9.0

        async def value():
            async with engine() as opened:
                return (await opened.run(flows.sweep)).value

        @pytest.mark.anyio
        async def test_patched(monkeypatch, anyio_backend_name):
            monkeypatch.setattr(flows, "train", fake)
            assert await value() == 9.0

        @pytest.mark.anyio
        async def test_restored():
            assert await value() == 2.0

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
    """
    shown = outcome(tmp_path, test)
    assert "2 passed" in shown, shown


def test_a_project_that_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    """No entry point loads it: pytest imports no module of towpath."""
    test = """
        import sys

        def test_clean():
            assert not [name for name in sys.modules if name.startswith("towpath")]
    """
    shown = outcome(tmp_path, test, conftest="")
    assert "1 passed" in shown, shown
