"""Steps and chains for tests of the server."""

from __future__ import annotations

from typing import Any

import anyio

from towpath import Artifact, File, chain, context, step

PIXELS = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f00"
    "05050201a5d8d9cd0000000049454e44ae426082"
)


@step
async def write(text: str) -> File:
    """A text as a file."""
    context().logger.info("writing %d characters", len(text))
    return File(text.encode(), filename="note.txt")


@step
async def shout(note: Artifact, times: int = 1) -> File:
    """The text, louder."""
    return File((await note.read_bytes()).upper() * times, filename="loud.txt")


@step
async def measure(note: Artifact) -> dict[str, Any]:
    """How long the text is."""
    data = await note.read_bytes()
    return {"length": len(data), "text": data.decode()}


@step
async def fail(note: Artifact) -> None:
    """Fails, and says what it was given."""
    raise ValueError(f"cannot read {note.filename}")


@step
async def tell_secret() -> None:
    """Fails with an error text that holds a secret."""
    raise RuntimeError("the server said: token S3CRET-CANARY is no good")


@step
async def talk(number: int) -> int:
    context().logger.info("number %d speaks", number)
    return number


@step
async def numbers(count: int) -> list[int]:
    return list(range(count))


@step
async def lose_photo() -> None:
    """Fails, and names a folder."""
    raise FileNotFoundError("no file /srv/private/photo.png")


@step
async def wait_for_ever() -> None:
    """Takes its time."""
    await anyio.sleep(3600)


@step
async def picture() -> File:
    return File(PIXELS, filename="dot.png")


@step
async def large(size: int) -> File:
    """Many bytes, each another than its neighbours."""
    return File((bytes(range(251)) * (size // 251 + 1))[:size], filename="large.bin")


@chain
def story(text: str = "hello"):
    """A text that a person looks at before it is measured."""
    note = write(text)
    loud = shout(note).with_approval(on_rejected="regenerate", max_retries=2)
    return measure(loud)


@chain
def plain(text: str = "hello"):
    return measure(shout(write(text)))


@chain
def broken(text: str = "hello"):
    return fail(write(text))


@chain
def sleepy():
    return wait_for_ever()


@chain
def two_gates(text: str = "hello"):
    note = write(text)
    return [shout(note, 1).with_approval(), shout(note, 2).with_approval()]


@chain
def gallery():
    return picture()


@chain
def heavy(size: int = 9_000_000):
    return large(size)


@chain
def leaky():
    return tell_secret()


@chain
def talkative(count: int = 3):
    return talk.map(numbers(count))


@chain
def lost():
    return lose_photo()


@chain
def secretive(api_key: str = "none", text: str = "hello"):
    return measure(write(text))


@step
async def slowly(number: int, folder: str) -> int:
    """Says how far it is, waits for a test, and item 1 fails."""
    context().progress(number, 4)
    print(f"step {number}")
    while not await anyio.Path(folder, "go").exists():  # noqa: ASYNC110 - a test says so with a file
        await anyio.sleep(0.02)
    if number == 1:
        raise RuntimeError("no further")
    return number


@chain
def halfway(folder: str):
    return slowly.map([0, 1], folder=folder)
