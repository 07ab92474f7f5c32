"""The three folders of the server: what it gives out, what it takes in, and how it names what it makes."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import random
import re
import shutil
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.comfyui.server import contents

KINDS = ("output", "input", "temp")
ACTIVE = {"text/html", "text/javascript", "text/css", "text/xml", "application/xml", "image/svg+xml"}
Item = dict[str, str]


class Refused(Exception):
    """A request for a file that the server does not answer with one. `status` is the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class Folders:
    """input, output and temp below one folder."""

    root: Path

    def open(self) -> None:
        """Make the folders, and wipe temp: that is done at each start and stop."""
        self.wipe_temp()
        for kind in KINDS:
            (self.root / kind).mkdir(parents=True, exist_ok=True)

    def wipe_temp(self) -> None:
        """Remove what previews left."""
        shutil.rmtree(self.root / "temp", ignore_errors=True)

    def forget(self) -> None:
        """Remove every file."""
        for kind in KINDS:
            shutil.rmtree(self.root / kind, ignore_errors=True)
        self.open()

    def of(self, kind: str) -> Path | None:
        """The folder of a type word; None if there is no such type."""
        return self.root / kind if kind in KINDS else None

    def inputs(self, *extensions: str) -> list[str]:
        """The choices of a loader: files right inside of input, without its subfolders."""
        found = (entry.name for entry in os.scandir(self.root / "input") if entry.is_file())
        return sorted(name for name in found if not extensions or name.lower().endswith(extensions))

    # What loaders read.

    def named(self, value: str, default: str = "input") -> Path:
        """The file that a loader's text means: "name", "sub/name", "name [output]"."""
        base, kind = annotation(value)
        return self.root / (kind or default) / base

    # GET /view.

    def viewed(self, filename: str, subfolder: str | None, kind: str) -> Path:
        """The file that GET /view means, or why not."""
        name, annotated = annotation(filename)
        if not name or name[0] == "/" or ".." in name:
            raise Refused(400)
        folder = self.of(annotated or kind)
        if folder is None:
            raise Refused(400)
        if subfolder is not None:
            folder = _inside(folder, folder / subfolder, 403)
        found = folder / os.path.basename(name)
        if not os.path.isfile(found):
            raise Refused(404)
        return found

    # POST /upload/image.

    def place_for(self, filename: str, subfolder: str, kind: str) -> Path:
        """The folder that an upload goes to. An unknown type is a crash of the server, as in the original."""
        folder = self.of(kind or "input")
        if folder is None:
            raise TypeError(kind)
        within = folder / os.path.normpath(subfolder)
        _inside(folder, within / filename, 400)
        within.mkdir(parents=True, exist_ok=True)
        return within

    def keep(self, data: IO[bytes], within: Path, filename: str, overwrite: bool) -> str:
        """Write an upload; the name it has now. The same bytes under the same name are not written again."""
        stem, extension = os.path.splitext(filename)
        name, number = filename, 0
        while not overwrite and (within / name).exists():
            if _same(data, within / name):
                return name
            number += 1
            name = f"{stem} ({number}){extension}"
        data.seek(0)
        with open(within / name, "wb") as file:
            shutil.copyfileobj(data, file, 1 << 20)
        return name

    # What save nodes write.

    def numbered(self, prefix: str, kind: str = "output", size: tuple[int, int] = (0, 0)) -> Naming:
        """Names for what a node saves under a prefix. Leaving the folder is an error of the node."""
        folder = self.root / kind
        prefix = os.path.normpath(_filled_in(prefix, size))
        within = folder / os.path.dirname(prefix)
        if not Path(os.path.abspath(within)).is_relative_to(folder):
            raise Exception(
                "**** ERROR: Saving image outside the output folder is not allowed."
                f"\n full_output_folder: {os.path.abspath(within)}\n         output_dir: {folder}"
            )
        within.mkdir(parents=True, exist_ok=True)
        base = os.path.basename(prefix)
        taken = re.compile(re.escape(base) + r"_(\d+)")
        numbers = [int(match[1]) for entry in os.scandir(within) if (match := taken.match(entry.name))]
        return Naming(within, os.path.dirname(prefix), base, kind, max(numbers, default=0) + 1)


@dataclass(slots=True)
class Naming:
    """The next names under one prefix."""

    folder: Path
    subfolder: str
    base: str
    kind: str
    number: int

    def save(self, data: bytes, ending: str) -> Item:
        """Write one file, `base_00001` and the ending; the item that history tells of it."""
        return self.save_pieces([(0, data)], len(data), ending)

    def save_pieces(self, pieces: Iterable[tuple[int, bytes]], size: int, ending: str) -> Item:
        """Write a file of some size from pieces at their places; nothing else of it takes room."""
        name = f"{self.base}_{self.number:05}{ending}"
        self.number += 1
        with open(self.folder / name, "wb") as file:
            for place, data in pieces:
                file.seek(place)
                file.write(data)
            file.truncate(size)
        return {"filename": name, "subfolder": self.subfolder, "type": self.kind}


def annotation(value: str) -> tuple[str, str | None]:
    """A name and the type word behind it: "x.png [output]" is ("x.png", "output")."""
    for kind in KINDS:
        if value.endswith(f"[{kind}]"):
            return value[: -len(kind) - 3], kind
    return value, None


def media_type(path: Path) -> str:
    """The Content-Type of GET /view. What a browser would run is octets."""
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return "application/octet-stream" if guessed in ACTIVE or guessed.endswith("+xml") else guessed


def etag(path: Path) -> str:
    """The ETag of GET /view."""
    seen = path.stat()
    return f'"{seen.st_mtime_ns:x}-{seen.st_size:x}"'


def random_letters() -> str:
    """What makes the names of previews differ."""
    return "".join(random.choice(string.ascii_lowercase[:15]) for _ in range(5))


def file_digest(path: Path) -> str:
    """The digest of a file's content, as `contents.digest` counts it; big files are never in memory."""
    with open(path, "rb") as file:
        if file.read(8) == contents.SIGNATURE:
            file.seek(0)
            return contents.digest(file.read())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(folder: Path, target: Path, status: int) -> Path:
    if not Path(os.path.abspath(target)).is_relative_to(folder):
        raise Refused(status)
    return target


def _same(data: Any, path: Path) -> bool:
    data.seek(0)
    with open(path, "rb") as other:
        return hashlib.file_digest(data, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()


def _filled_in(prefix: str, size: tuple[int, int]) -> str:
    now = time.localtime()
    values = {
        "width": str(size[0]),
        "height": str(size[1]),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    return re.sub(r"%(\w+)%", lambda match: values.get(match[1], match[0]), prefix)
