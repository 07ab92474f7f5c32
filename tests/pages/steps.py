"""Steps and chains whose pages are looked at. They have module names, so that a rerun finds them."""

from __future__ import annotations

import io
import itertools
import logging
from typing import Any

import anyio

from towpath import File, chain, context, step


def png(colour: str, size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture in one colour."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@step
def paint(colour: str, words: str = "a boat") -> dict[str, Any]:
    """A picture and a note about it."""
    context().logger.info("painting %s in %s", words, colour)
    return {
        "picture": File(png(colour), filename="picture.png"),
        "note": File(f"{words} in {colour}\nsecond line\n".encode(), filename="note.txt"),
    }


@step
async def frame(made: dict[str, Any], out: str) -> File:
    """Hands on what it was given, and leaves its bytes where a test can look at them."""
    picture, note = await made["picture"].read_bytes(), await made["note"].read_bytes()
    await anyio.Path(out, "picture").write_bytes(picture)
    await anyio.Path(out, "note").write_bytes(note)
    return File(picture, filename="framed.png")


@chain
def pictures(out: str, colour: str = "teal"):
    return frame(paint(colour).with_approval(on_rejected="regenerate", max_retries=2, timeout="24h"), out)


@chain
def gated(colour: str = "teal"):
    return paint(colour).with_approval()


@step
async def hold(folder: str) -> str:
    """Works until a test makes the file `go`."""
    go = anyio.Path(folder, "go")
    while not await go.exists():  # noqa: ASYNC110 - a test says so with a file
        await anyio.sleep(0.02)
    return "done"


@step
def after(value: str) -> str:
    return value


@chain
def holding(folder: str):
    return after(hold(folder))


@step
def numbers(n: int) -> list[int]:
    return list(range(n))


@step
def tile(n: int) -> File:
    return File(f"tile {n}\n".encode(), filename=f"tile-{n:04}.txt")


@chain
def tiles(n: int):
    return tile.map(numbers(n))


@step
def divide(n: int) -> float:
    context().logger.info("dividing by %d", n)
    return 100 / n


@chain
def broken(n: int = 3):
    return divide.map(numbers(n))


@step
async def train(folder: str, epochs: int) -> str:
    """Says what it does, until a test makes the file `go`."""
    go, lib = anyio.Path(folder, "go"), logging.getLogger("plotting")
    for epoch in itertools.count():
        print(f"epoch {epoch}: loss {1 / (epoch + 1):.4f}")
        lib.info("a checkpoint after epoch %d", epoch)
        context().progress(min(epoch, epochs - 1), epochs)
        if await go.exists():
            break
        await anyio.sleep(0.1)
    return "trained"


@step
async def try_out(number: int, folder: str) -> int:
    """An item that says how far it is."""
    context().progress(number, 10)
    await hold.function(folder)
    return number


@chain
def training(folder: str, epochs: int = 400):
    return after(train(folder, epochs)), try_out.map([1, 2, 3], folder=folder)


NAME = "<img src=x onerror=alert(1)>.svg"
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2); fetch("/hostile")</script>
<image href="http://127.0.0.1:1/hostile"/><foreignObject><iframe src="/hostile"/></foreignObject></svg>"""
HTML = b"""<!doctype html><script>alert(3); fetch("/hostile")</script>
<img src="/hostile"><iframe src="/hostile"></iframe>"""
TEXT = b"""</ol></pre><script>alert(4)</script><img src=/hostile onerror=alert(5)>{{ 7*7 }}"""


@step
def hostile() -> dict[str, Any]:
    """Files that would like to do harm, among them some that lie about what they are."""
    context().logger.info("</pre><script>alert(6)</script>")
    return {
        "svg": File(SVG, filename=NAME, media_type="image/svg+xml"),
        "html": File(HTML, filename="page.html", media_type="text/html"),
        "text": File(TEXT, filename="'\"><script>alert(7)</script>.txt", media_type="text/plain"),
        "liar": File(HTML, filename="liar.png", media_type="image/png"),
        "json": File(b'{"</div><script>alert(8)</script>": "<img src=/hostile onerror=alert(9)>"}', filename="a.json"),
        "film": File(HTML, filename="film.mp4", media_type="video/mp4"),
        "words": "<script>alert(10)</script>",
    }


@step
def angry(made: dict[str, Any], words: str) -> str:
    raise ValueError(f"<script>alert(11)</script>{words}")


@chain
def attack(words: str = "<img src=/hostile onerror=alert(12)>"):
    return angry(hostile().with_approval(), words)


@step
def price_of(price: int, api_key: str) -> dict[str, int]:
    return {"price": price}


@chain
def worth(price: int = 5, api_key: str = ""):
    return price_of(price, api_key).with_approval(on_rejected="regenerate", max_retries=1)
