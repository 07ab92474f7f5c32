"""A folder of CSV files becomes a report. One of the files is broken: the others are enough."""

import logging
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from towpath import chain, context, step

mpl.use("Agg")
log = logging.getLogger(__name__)


@dataclass
class Summary:
    rows: int
    revenue: float
    best_day: date
    price: Decimal
    by_shop: dict[str, float]


@step
def find(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.csv"))


@step(on_item_failure="keep")
def load(file: Path) -> pd.DataFrame:
    print("reading", file.name)
    table = pd.read_csv(file, parse_dates=["day"])
    table["revenue"] = table["units"] * table["price"]
    return table


@step
def merge(tables: list[pd.DataFrame | None]) -> pd.DataFrame:
    good = [table for table in tables if table is not None]
    log.warning("%d of %d files could not be read", len(tables) - len(good), len(tables))
    return pd.concat(good, ignore_index=True)


@step
def summarize(sales: pd.DataFrame) -> Summary:
    by_day = sales.groupby("day")["revenue"].sum()
    return Summary(
        rows=sales["units"].count(),
        revenue=sales["revenue"].sum(),
        best_day=by_day.idxmax().date(),  # type: ignore[attr-defined]  # its stubs know no type of an index
        price=Decimal(str(sales["price"].max())),
        by_shop=dict(sales.groupby("shop")["revenue"].sum()),
    )


@step
def draw(sales: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(3, 2))
    sales.groupby("shop")["revenue"].sum().plot.bar(ax=figure.subplots())
    return figure


@step
def write(summary: Summary, picture: bytes) -> Path:
    page = context().work_folder / "report.html"
    page.write_text(
        f"<h1>{summary.revenue:.2f} on {summary.rows} lines</h1>"
        f"<p>best day {summary.best_day:%d %B %Y}, highest price {summary.price}</p><p>{len(picture)} bytes of picture"
    )
    return page


@chain
def report(folder: str):
    sales = merge(load.map(find(folder)))
    summary = summarize(sales)
    return {"page": write(summary, draw(sales)), "summary": summary}
