"""Run it: python examples/script.py

Reads the temperatures of three stations, summarises each station in parallel, and binds the summaries into a report.
Every run is kept: `towpath ls` lists the runs, `towpath get last -o out` copies the files of the last one.
"""

import asyncio
import csv
import io
import statistics
from typing import Any

from towpath import Artifact, File, chain, open_engine, step

READINGS = {
    "harbour": [11.2, 12.9, 13.4, 12.1],
    "ridge": [4.1, 6.0, 7.7, 5.2],
    "valley": [8.3, 10.1, 12.8, 9.6],
}


@step
def export_readings(stations: list[str]) -> list[File]:
    """One CSV file for each station. A real step would ask a database or an instrument."""
    files = []
    for station in stations:
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["hour", "celsius"])
        rows.writerows(enumerate(READINGS[station]))
        files.append(File(table.getvalue().encode(), filename=f"{station}.csv"))
    return files


@step(retries=2, timeout="1m")
def summarise(readings: Artifact) -> dict[str, Any]:
    """Lowest, mean and highest temperature of one file."""
    with open(readings, encoding="utf-8") as table:
        values = [float(row["celsius"]) for row in csv.DictReader(table)]
    return {
        "station": readings.filename.removesuffix(".csv"),
        "low": min(values),
        "mean": round(statistics.mean(values), 1),
        "high": max(values),
    }


@step
def write_report(summaries: list[dict[str, Any]], title: str) -> File:
    """The summaries as a table in Markdown."""
    lines = [f"# {title}", "", "| station | low | mean | high |", "|---|---|---|---|"]
    lines += [f"| {s['station']} | {s['low']} | {s['mean']} | {s['high']} |" for s in summaries]
    return File("\n".join(lines).encode() + b"\n", filename="report.md")


@chain
def weather(stations: list[str], title: str = "Temperatures") -> Any:
    """The whole work; passing the result of one step to the next one is what makes the order."""
    return write_report(summarise.map(export_readings(stations)), title)


async def main() -> None:
    """Run the chain in this process, on a SQLite file in the current folder."""
    async with open_engine("sqlite:///towpath.db") as engine:
        run = await engine.run(weather, stations=sorted(READINGS))
        print((await run.value.read_bytes()).decode())
        print(f"run {run.id} {run.status}; the report is {await run.value.path()}")


if __name__ == "__main__":
    asyncio.run(main())
