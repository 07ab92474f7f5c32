"""What notebooks show (F17): HTML that needs nothing else, escapes every text, and does not wait for long."""

from __future__ import annotations

import asyncio
import base64
import html.parser
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import chain_steps as steps
from towpath import Artifact, Engine, File, Run, chain, load_chain, notebook, step, testing
from towpath.testing import artifact

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
EVIL = "</td></svg><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b\"'"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a text, which must be closed in order."""

    void = frozenset(["img", "br", "rect", "path"])

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def harmless(shown: str) -> Tags:
    """Well-formed, encodable, without scripts, and without an address of any server."""
    shown.encode()
    tags = Tags(shown)
    assert not {"script", "iframe", "object", "style", "link"} & set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    loads = [value for name, value in tags.attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith("data:image/") for value in loads)
    assert "url(" not in shown
    return tags


@step
def pictures(names: list[str]) -> list[File]:
    return [File(PIXEL, filename=name) for name in names]


@step
def cruel(text: str) -> None:
    raise ValueError(text)


@chain
def shown(names: list[str], text: str):
    drawn = pictures(names)
    return steps.boom_if.map([1, 2], bad=[2]).after(drawn), cruel(text)


@pytest.mark.anyio
async def test_F17_a_run_is_a_table_of_its_steps() -> None:
    async with testing.engine() as engine:
        run = await engine.run(shown, names=["a.png", EVIL], text=EVIL, check=False)
        html_ = run._repr_html_()
        tags = harmless(html_)
        assert tags.names.count("img") == 2
        assert "1 completed, 1 failed" in html_
        assert "ValueError: item 2" in html_
        assert "&lt;script&gt;alert(1)" in html_
        assert "\\u202e" in html_
        assert html_.count("data:image/png;base64," + base64.b64encode(PIXEL).decode()) == 2
    closed = run._repr_html_()
    assert "img" not in harmless(closed).names, "the bytes are gone, the table is there"
    assert "a.png" in closed


@pytest.mark.anyio
async def test_a_large_run_is_cut() -> None:
    @chain
    def many():
        return [steps.number(n) for n in range(120)]

    async with testing.engine() as engine:
        tags = harmless((await engine.run(many))._repr_html_())
    assert tags.names.count("tr") == 1 + notebook.STEPS


@pytest.mark.anyio
async def test_what_failed_is_in_the_table_of_a_large_run() -> None:
    """And a long message does not fill the page."""

    @chain
    def many():
        return [*(steps.number(n) for n in range(120)), cruel("x" * 10_000)]

    async with testing.engine() as engine:
        run = await engine.run(many, check=False)
        shown = run._repr_html_()
    assert harmless(shown).names.count("tr") == 1 + notebook.STEPS
    assert "<b>cruel</b>" in shown
    assert shown.count("x") < 3 * notebook.MESSAGE


@step
def waits_for_ann(text: str) -> str:
    return text


@chain
def drawn(n: int = 3):
    first = steps.double.map(steps.up_to(n))
    waits_for_ann("x").with_approval(timeout="1h")
    return steps.total(first).when("up_to.status == 'completed'")


def test_F17_a_chain_is_a_drawing(tmp_path: Path) -> None:
    """The same for a chain, its plan, and a chain file."""
    (tmp_path / "one.yaml").write_text(
        "name: one\nsteps:\n  - {id: number, python: 'tests.conformance.chain_steps:number', parameters: {n: 1}}\n"
    )
    for text in (drawn._repr_html_(), drawn.plan._repr_html_()):
        tags = harmless(text)
        assert tags.names.count("svg") == 1
        assert tags.names.count("path") == len([d for s in drawn.plan.steps for d in s.depends_on])
        for name, note in (
            ("double", "for each item"),
            ("waits_for_ann", "asks for approval"),
            ("total", "on a condition"),
        ):
            assert re.search(rf">{name}</text><text [^>]*>{note}</text>", text)
    assert "number" in load_chain(tmp_path / "one.yaml")._repr_html_()


def test_a_drawing_of_a_thousand_steps_is_folded() -> None:
    @chain
    def wide():
        return [steps.number(n) for n in range(1_000)]

    text = wide._repr_html_()
    harmless(text)
    assert "993 steps" in text
    assert len(text) < 20_000


def test_hostile_names_in_a_drawing() -> None:
    from msgspec.structs import replace

    plan = drawn.plan
    changed = replace(plan, name=f"{EVIL}\ud800", steps=tuple(replace(s, kind=EVIL) for s in plan.steps))
    harmless(changed._repr_html_())


@pytest.mark.parametrize(
    ("made", "has"),
    [
        (artifact(PIXEL, "x.png"), "<img"),
        (artifact("<svg onload='alert(1)'/>", "x.svg", media="image/svg+xml"), "data:image/svg+xml;base64,"),
        (artifact("a <b>\nline", "x.txt"), "a &lt;b&gt;\nline"),
        (artifact(EVIL.encode(errors="replace"), f"{EVIL}.txt"), "&lt;/td&gt;"),
        (artifact("x" * 50_000, "x.txt"), "x…</pre>"),
        (artifact("x" * 100_000, "x.txt"), "100.0 kB"),
        (artifact(b"\xff\xfe\x00", "x.bin"), "3 B"),
        (artifact(b"not a picture", "x.png", media='image/png" onerror="alert(1)'), "&quot;"),
        (artifact('{"a": 1}', "x.json"), "&quot;a&quot;"),
    ],
)
def test_F17_a_file_is_shown_by_what_it_is(made: Artifact, has: str) -> None:
    text = made._repr_html_()
    harmless(text)
    assert has in text


def test_F17_tables_are_shown_with_pandas_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the program has not imported pandas, a CSV file is a text."""
    made = artifact(f"a<script>,b\n1,{'<img src=x onerror=alert(1)>'}\n", "t.csv")
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    assert "<pre>" in made._repr_html_()
    assert "pandas" not in sys.modules
    monkeypatch.undo()
    import pandas as pd

    text = made._repr_html_()
    assert "table" in harmless(text).names
    assert "1 rows × 2 columns" in text
    assert "\u202e" not in artifact("a\u202e,b\n1,2\n", "t.csv")._repr_html_()
    frame = pd.DataFrame({"n": range(50)})
    assert "50 rows × 1 columns" in artifact(frame.to_parquet(), "t.parquet")._repr_html_()
    assert "t.parquet" in artifact(b"no parquet at all", "t.parquet")._repr_html_()


class Slow:
    """Files whose bytes come when they may."""

    def __init__(self) -> None:
        self.may_come = threading.Event()

    def read_now(self, row: Any) -> bytes:
        self.may_come.wait(60)
        return PIXEL


@pytest.mark.anyio
async def test_F17_nothing_waits_for_slow_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "PATIENCE", 0.05)
    slow = Slow()
    made = Artifact(artifact(PIXEL, "x.png").row, slow)  # type: ignore[arg-type]
    assert "img" not in harmless(made._repr_html_()).names
    slow.may_come.set()


def test_F17_an_engine_lives_across_cells() -> None:
    """Opened in one task, used in a second one, closed in a third; a step that is defined again is used."""

    async def cells() -> tuple[Run, Run]:
        def defined(more: int) -> Any:
            @step(name="cell")
            async def cell(n: int) -> int:
                return n + more

            @chain
            def in_cells(n: int):
                return cell(n)

            return in_cells

        async def in_a_task(work: Any) -> Any:
            return await asyncio.create_task(work)

        engine = await in_a_task(Engine.open("sqlite:///:memory:"))
        one = await in_a_task(engine.run(defined(1), n=1))
        two = await in_a_task(engine.run(defined(1000), n=1))
        await in_a_task(engine.close())
        return one, two

    one, two = asyncio.run(cells())
    assert (one.value, two.value) == (2, 1001)
