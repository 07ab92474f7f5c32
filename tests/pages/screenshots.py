"""The screenshots of the README, from a real run: python -m tests.pages.screenshots [FOLDER]

The demo's photographs go through a chain with two gates; somebody edits the contact sheet, one step is at work, one
waits. Needs Chromium and playwright. Without a FOLDER they go to docs/screenshots.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Page, sync_playwright

from tests.pages.conftest import BROWSERS, lacking, served
from towpath import Artifact, File, chain, context, step
from towpath.adapters.demo.chain import list_photos, palette, photographs, sheet, thumbnail

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
SIZE = {"width": 1200, "height": 780}
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<include>/etc/fonts/fonts.conf</include>
<match><test name="family"><string>system-ui</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match>
<match><test name="family"><string>sans-serif</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match></fontconfig>"""


@step
def caption(page: Artifact, tone: str) -> File:
    """What to print below the sheet."""
    context().logger.info("a caption for %s, in a %s tone", page.filename, tone)
    return File(f"# Eight photographs\n\nFrom a cat to a galaxy.\nTone: {tone}\n".encode(), filename="caption.md")


@step
async def proofs(page: Artifact, folder: str) -> str:
    """Test prints; runs until the screenshots are taken."""
    context().progress(5, 8)
    while not await anyio.Path(folder, "enough").exists():  # noqa: ASYNC110 - the script says so with a file
        await anyio.sleep(0.05)
    return page.digest


@step
def publish(page: Artifact, text: Artifact, proof: str) -> dict[str, Any]:
    """The end of it."""
    return {"page": page.digest, "text": text.digest, "proof": proof}


@chain
def contact_sheet(photos: str, folder: str, width: int = 256, tone: str = "calm") -> Any:
    """Thumbnails, palettes and a contact sheet that a person approves."""
    taken = list_photos(photos)
    page = sheet(thumbnail.map(taken, width=width), palette.map(taken))
    approved = page.with_approval(timeout="24h", on_rejected="regenerate", max_retries=2)
    return publish(approved, caption(approved, tone=tone).with_approval(), proofs(approved, folder))


def edited(data: bytes) -> bytes:
    """What a person did to the sheet in another program."""
    with Image.open(io.BytesIO(data)) as image:
        grey = ImageEnhance.Contrast(ImageOps.grayscale(image)).enhance(1.15).convert("RGB")
    out = io.BytesIO()
    grey.save(out, "JPEG", quality=92)
    return out.getvalue()


async def prepare(engine: Any, folder: str) -> dict[str, str]:
    """Two runs, one of them in the middle of everything; the addresses of the pictures."""
    files = {"photos": str(photographs()), "folder": folder}
    waits = await engine.run(contact_sheet, **files)
    handle = await engine.start(contact_sheet, **files, tone="cheerful")
    await handle.result()
    gate = next(g for g in await engine.approvals() if g["run"] == handle.id)
    old = gate["artifacts"][0]["id"]
    data = await engine.store.files.read_bytes(
        next(a for a in (await engine.snapshot(handle.id))["sheet"].artifacts if a.id == old).row
    )
    new = await engine.edit(old, File(edited(data), filename="contact-sheet.jpg"), by="Jo", reason="reads better")
    await engine.approve(gate["id"], by="Jo", seen=[new["id"]])
    while len(await engine.approvals()) < 2:  # noqa: ASYNC110 - the server goes on with it
        await anyio.sleep(0.05)
    first = next(g for g in await engine.approvals() if g["run"] == waits.id)
    return {
        "inbox": "/",
        "approval": f"/approvals/{first['id']}",
        "run": f"/runs/{handle.id}",
        "gallery": f"/runs/{handle.id}/artifacts",
        "compare": f"/artifacts/{old}/compare/{new['id']}",
    }


def photograph(page: Page, path: Path) -> None:
    """A picture of what is seen."""
    page.wait_for_load_state("networkidle")
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
    with Image.open(io.BytesIO(page.screenshot())) as taken:
        taken.convert("RGB").save(path, "WEBP", quality=90, method=6)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB")


def main() -> None:
    if why := lacking():
        sys.exit(why)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    target.mkdir(parents=True, exist_ok=True)
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with (
        tempfile.TemporaryDirectory() as folder,
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(Path(folder, "towpath.db"))) as (url, app, engine),
        sync_playwright() as playwright,
    ):
        fonts = Path(folder, "fonts.conf")
        fonts.write_text(FONTS)
        has_inter = shutil.which("fc-list") and "Inter" in subprocess.check_output(
            ["fc-list", ":", "family"], text=True
        )
        environment: dict[str, str | float | bool] = {
            **os.environ,
            **({"FONTCONFIG_FILE": str(fonts)} if has_inter else {}),
        }
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=environment)
        for name, path in portal.call(prepare, engine, folder).items():
            page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
            # A page whose run goes on has a stream open, and would never be idle.
            page.route("**/events?*", lambda route: route.abort())
            page.goto(url + path)
            photograph(page, target / f"{name}.webp")
            page.close()
        browser.close()
        Path(folder, "enough").touch()
        del app


if __name__ == "__main__":
    main()
