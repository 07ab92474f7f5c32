"""The steps of `chain.yaml`. A module beside a chain file is found without `--import`."""

import csv
import io
from typing import Any

from towpath import Artifact, File, step

ORDERS = [
    ("north", "lamp", 240),
    ("north", "chair", 180),
    ("south", "lamp", 560),
    ("south", "returned table", -120),
    ("west", "returned sofa", -90),
]


@step
def orders() -> File:
    """The orders of the month. A real step would download them."""
    table = io.StringIO()
    csv.writer(table).writerows([("region", "item", "amount"), *ORDERS])
    return File(table.getvalue().encode(), filename="orders.csv")


@step
def regions(orders: Artifact) -> list[str]:
    """The regions that have orders: the list that the next step is mapped over."""
    with open(orders, encoding="utf-8") as table:
        return sorted({row["region"] for row in csv.DictReader(table)})


@step
def total(region: str, orders: Artifact) -> dict[str, Any]:
    """What one region sold."""
    with open(orders, encoding="utf-8") as table:
        amounts = [int(row["amount"]) for row in csv.DictReader(table) if row["region"] == region]
    return {"region": region, "amount": sum(amounts)}


@step
def page(title: str, totals: list[dict[str, Any]]) -> File:
    """The totals as a web page."""
    rows = "".join(f"<tr><td>{one['region']}</td><td>{one['amount']}</td></tr>" for one in totals)
    return File(f"<h1>{title}</h1>\n<table>{rows}</table>\n".encode(), filename="report.html")


@step
def lowest(totals: list[dict[str, Any]]) -> dict[str, Any]:
    """The region that sold least."""
    return min(totals, key=lambda one: one["amount"])


@step
def warning(lowest: dict[str, Any]) -> File:
    """A note for the region that sold too little."""
    text = f"{lowest['region']} is below the minimum: {lowest['amount']}\n"
    return File(text.encode(), filename="warning.txt")
