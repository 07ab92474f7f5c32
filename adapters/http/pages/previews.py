"""How a file may be shown: raster images, audio, video and text. Nothing is rendered as a document."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from towpath.adapters.http.downloads import may_be_shown
from towpath.adapters.http.route_table import PREFIX
from towpath.model import ArtifactRow, kind_of

TEXT = frozenset(
    "application/json application/yaml application/x-yaml application/toml application/xml application/javascript "
    "application/x-sh image/svg+xml".split()
)  # shown as their source
SMALL_IMAGE = 256 * 1024  # bytes; an image up to this size is its own thumbnail
TEXT_LIMIT = 256 * 1024  # bytes of text shown
PEEK_LIMIT = 16 * 1024  # bytes; a text up to this size shows its first lines in a list
ICONS = {"image": "image", "video": "video", "audio": "audio", "text": "text", "json": "text", "none": "file"}
MODELS = frozenset("glb gltf obj stl ply fbx usdz 3mf".split())  # endings of three-dimensional models

LONGEST_ENDING = 11  # characters

PILLOW = importlib.util.find_spec("PIL") is not None


@dataclass(frozen=True, slots=True)
class Preview:
    """One version of a file, for templates. `show` is one of image video audio text json none.

    `url` is the address of the bytes, `thumb` that of a small picture or "".
    """

    id: str
    name: str
    filename: str
    version: int
    media_type: str
    size: int
    show: str
    url: str
    page: str
    thumb: str = ""
    digest: str = ""
    latest: bool = True
    status: str = ""
    workflow: str = ""
    created_at: int = 0
    parent: str | None = None
    peek: str = ""

    @property
    def icon(self) -> str:
        return "model" if self.kind == "model" or self.ending.lower() in MODELS else ICONS[self.show]

    @property
    def ending(self) -> str:
        """The ending of the file name in capitals; "" if it is long or unusual."""
        ending = self.filename.rpartition(".")[2] if "." in self.filename else ""
        return ending.upper() if ending.isalnum() and len(ending) <= LONGEST_ENDING else ""

    @property
    def kind(self) -> str:
        return kind_of(self.media_type)

    def under(self, base: str) -> Preview:
        """The same for the holder of a link: the bytes are below `base`, and there is no page."""
        url = f"{base}/files/{self.id}"
        return replace(self, url=url, thumb=url if self.thumb else "", page="")


def show_of(media_type: str) -> str:
    """How a media type is shown."""
    plain = media_type.split(";", 1)[0].strip().lower()
    word = plain.partition("/")[0]
    if word in ("image", "video", "audio") and may_be_shown(plain):
        return word
    if plain == "application/json" or plain.endswith("+json"):
        return "json"
    return "text" if plain.startswith("text/") or plain in TEXT else "none"


def content_url(artifact_id: str) -> str:
    """The address of a version's bytes."""
    return f"{PREFIX}/artifacts/{artifact_id}/raw"


def preview_of(row: ArtifactRow) -> Preview:
    """The preview of a version."""
    return _preview(
        row.id,
        row.name,
        row.filename,
        row.version,
        row.media_type,
        row.size,
        digest=row.digest,
        latest=row.is_latest,
        status=row.approval_status,
        workflow=row.workflow_id,
        created_at=row.created_at,
        parent=row.parent_artifact_id,
    )


def preview_of_record(record: Mapping[str, Any]) -> Preview:
    """The preview of a row of `artifacts`, or of the short form that approvals list."""
    return _preview(
        record["id"],
        record["name"],
        record["filename"],
        record["version"],
        record["media_type"],
        record["file_size"] if "file_size" in record else record["size"],
        digest=record.get("sha256", ""),
        latest=bool(record.get("is_latest", True)),
        status=record.get("approval_status", ""),
        workflow=record.get("workflow_id", ""),
        created_at=record.get("created_at", 0),
        parent=record.get("parent_artifact_id"),
    )


def _preview(id_: str, name: str, filename: str, version: int, media: str, size: int, **more: Any) -> Preview:
    show, url = show_of(media), content_url(id_)
    return Preview(
        id_, name, filename, version, media, size, show, url, f"/artifacts/{id_}", _thumb(id_, show, url, size), **more
    )


def _thumb(artifact_id: str, show: str, url: str, size: int) -> str:
    if show != "image":
        return ""
    if size <= SMALL_IMAGE:
        return url
    return f"/artifacts/{artifact_id}/thumbnail" if PILLOW else ""
