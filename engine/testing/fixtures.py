"""The fixtures of the pytest plugin. (PYTEST_DONT_REWRITE)"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from towpath.adapters.wiring import Engine

from .contexts import TrialContext
from .contexts import step_context as _step_context
from .engines import engine as _engine


@pytest.fixture(name="step_context")
def towpath_context(tmp_path: Path) -> Iterator[TrialContext]:
    """`context()` works in steps that the test calls; this is the context, whose files lie in `tmp_path`."""
    with _step_context(tmp_path) as context:
        yield context


@pytest.fixture
def towpath_engine(request: pytest.FixtureRequest) -> Any:
    """An open `Engine` in a temporary folder, in the event loop of the test: of pytest-asyncio or anyio."""
    return request.getfixturevalue(f"_towpath_engine_{_loop_of(request)}")


def _loop_of(request: pytest.FixtureRequest) -> str:
    """Whose event loop runs the test: `anyio`, or the scope of pytest-asyncio's loop."""
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend")  # a name, or a name with options
        if (backend if isinstance(backend, str) else backend[0]) != "asyncio":
            pytest.fail('towpath needs asyncio: let the fixture anyio_backend return "asyncio"', pytrace=False)
        return "anyio"
    if not request.config.pluginmanager.has_plugin("asyncio"):
        pytest.fail("towpath_engine needs an async test, with pytest-asyncio or anyio", pytrace=False)
    marker = request.node.get_closest_marker("asyncio")
    given = (marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")) if marker is not None else None
    return str(given or request.config.getini("asyncio_default_test_loop_scope") or "function")


def _engine_in(loop: str) -> Callable[..., Any]:
    """The fixture for one event loop. The strict mode of pytest-asyncio takes only fixtures of its own."""

    async def opened() -> AsyncIterator[Engine]:
        async with _engine() as engine:
            yield engine

    name, of_asyncio = f"_towpath_engine_{loop}", sys.modules.get("pytest_asyncio")
    if loop == "anyio" or of_asyncio is None:
        return pytest.fixture(name=name)(opened)
    made: Callable[..., Any] = of_asyncio.fixture(name=name, loop_scope=loop)(opened)
    return made


_of_anyio = _engine_in("anyio")
_of_function = _engine_in("function")
_of_class = _engine_in("class")
_of_module = _engine_in("module")
_of_package = _engine_in("package")
_of_session = _engine_in("session")
