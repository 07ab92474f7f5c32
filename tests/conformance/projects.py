"""Three projects in the natural way of their libraries, first time right on each adapter. See `tests/projects`."""

from __future__ import annotations

import io
from pathlib import Path

import anyio
import pandas as pd
from PIL import Image

from tests.conformance.chain_steps import PATIENCE
from tests.conformance.runs import DONE, WAITS, OpenEngine, rows, settled
from tests.projects import posters, sales, sweep
from towpath import Engine, Run


async def approve_all(engine: Engine, run: Run) -> Run:
    """Approve what waits, until the run is over."""
    with anyio.fail_after(PATIENCE):
        while run.status == "paused":
            for gate in await engine.approvals(run.id):
                await engine.approve(gate, by="Ann")
            run = await engine.resume(run.id)
    return run


async def test_a_report_of_csv_files(open_engine: OpenEngine, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for shop in ("north", "south"):
        days = pd.date_range("2026-03-01", periods=4)
        table = {"day": days, "shop": shop, "units": range(1, 5), "price": 2.5}
        pd.DataFrame(table).to_csv(folder / f"{shop}.csv", index=False)
    (folder / "broken.csv").write_bytes(b"\x00\xff not a table")
    async with open_engine() as engine:
        run = await engine.run(sales.report, folder=str(folder))
        assert run.status == "partial"
        assert run.value["summary"] == {
            "rows": 8,
            "revenue": 50.0,
            "best_day": "2026-03-04",
            "price": "2.5",
            "by_shop": {"north": 25.0, "south": 25.0},
        }
        page = await run.value["page"].read_bytes()
        assert page.startswith(b"<h1>50.00 on 8 lines</h1><p>best day 04 March 2026, highest price 2.5")
        picture = run["draw"].artifact
        assert picture.media_type == "image/png"
        assert picture.kind == "image"
        merged = run["merge"].artifact
        assert merged.filename.endswith(".parquet")
        assert len(pd.read_parquet(io.BytesIO(await merged.read_bytes()))) == 8
        logs = {(row["step_id"], row["item_index"]): row["text"] for row in await engine.store.logs(run.id)}
        assert "1 of 3 files could not be read" in logs["merge", None]
        assert all("reading" in logs["load", item] for item in range(3))


async def test_a_sweep_in_processes(open_engine: OpenEngine) -> None:
    async with open_engine() as engine:
        run = await engine.run(sweep.sweep, depths=[1, 3])
        assert run.status == "paused"
        found = await rows(engine, run)
        assert found["best"].status == WAITS
        (gate,) = await engine.approvals(run.id)
        assert any(shown.filename.endswith(".joblib") for shown in gate.artifacts)
        run = await approve_all(engine, run)
        assert float(run.value) > 0.8
        tried = run["train"].value
        assert [one["settings"] for one in tried] == [
            {"depth": depth, "rule": rule} for depth in (1, 3) for rule in ("gini", "entropy")
        ]
        assert all(isinstance(one["accuracy"], float) and isinstance(one["mistakes"], int) for one in tried)
        statuses = await settled(engine, run)
        assert {statuses[name] for name in ("grid", "prepare", "train", "best", "publish")} == {DONE}


async def test_posters_with_a_person(open_engine: OpenEngine) -> None:
    """One picture is replaced at its gate: the sheet has the new one."""
    async with open_engine() as engine:
        run = await engine.run(posters.posters, titles=["one", "two"])
        gates = sorted(await engine.approvals(run.id), key=lambda gate: gate.item or 0)
        assert [gate.item for gate in gates] == [0, 1]
        white = io.BytesIO()
        Image.new("RGB", (32, 24), "white").save(white, "PNG")
        await engine.edit(gates[1].artifacts[0]["id"], white.getvalue(), by="Ann", approve=True)
        run = await approve_all(engine, run)
        assert run.status == "completed"
        sheet = Image.open(io.BytesIO(await run.value.read_bytes()))
        assert sheet.size == (64, 24)
        assert sheet.getpixel((60, 20)) == 255
        assert sheet.getpixel((20, 20)) != 255
