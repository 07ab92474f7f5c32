"""The outputs of a prompt: every file and text of every node, as entries for the other functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.adapters.comfyui.replies import OutputFile, Outputs, PromptRecord, PromptState, outputs_of
from towpath.errors import ServerFailed
from towpath.logs import guarded_logger
from towpath.media import media_of_name
from towpath.model import kind_of

Entry = Mapping[str, Any]

_KINDS = {"images": "image", "gifs": "video", "video": "video", "audio": "audio", "3d": "model"}
_log = guarded_logger("towpath.activities")


async def get_server_output_files(server_address: str, history_or_outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All outputs of a prompt, in the order of their nodes: `{filename, subfolder, type, node_id, kind, key}`.

    `history_or_outputs` is a result of `execute_and_track_workflow`, a reply of `/history`, an entry of one, or the
    outputs by node. `type` is the server's folder, `kind` one of image video audio text model file, `key` the server's
    word for the output. A text is an entry with `text`. An output that is not understood has the kind `unknown`, and
    `error` and `code`. Preview files (folder `temp`) are left out if there are other files.
    """
    found = outputs_of(PromptRecord(PromptState.COMPLETED, _by_node(history_or_outputs)))
    return list(_entries(found))


def _by_node(given: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(given.get("outputs"), Mapping):
        return dict(given["outputs"])
    entries = [entry for entry in given.values() if isinstance(entry, Mapping) and "outputs" in entry]
    if len(entries) == 1 == len(given) and isinstance(entries[0]["outputs"], Mapping):
        return dict(entries[0]["outputs"])  # a reply of /history with one prompt
    return {} if "outputs" in given else dict(given)


def _entries(found: Outputs) -> Iterator[dict[str, Any]]:
    for file in found.files:
        yield {
            "filename": file.filename,
            "subfolder": file.subfolder,
            "type": file.folder,
            "node_id": file.node,
            "kind": _kind(file),
            "key": file.key,
        }
    for node, texts in found.texts.items():
        for text in texts:
            where = {"filename": f"node-{node}.txt", "subfolder": "", "type": "", "node_id": node}
            yield {**where, "kind": "text", "key": "text", "text": text}
    for line in found.odd:
        _log.warning("an output that is not understood: %s", line)
        node = line.removeprefix("node ").partition(":")[0].partition(",")[0]
        where = {"filename": "", "subfolder": "", "type": "", "node_id": node}
        yield {**where, "kind": "unknown", "key": "", "error": line, "code": "E_REPLY_TYPE"}


def _kind(file: OutputFile) -> str:
    kind = kind_of(media_of_name(file.filename)) if isinstance(file.filename, str) else "file"
    return kind if kind != "file" else _KINDS.get(file.key, kind)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The entry of an output that was not understood."""

    file: OutputFile
    error: ServerFailed


def read_outputs(output_files: Sequence[Entry]) -> list[OutputFile | Unreadable]:
    """The outputs in entries of `get_server_output_files`; the seed's entries, without `kind` and `key`, do as well."""
    return [_read(entry) for entry in output_files]


def _read(entry: Entry) -> OutputFile | Unreadable:
    file = OutputFile(
        node=str(entry.get("node_id") or ""),
        key=str(entry.get("key") or ""),
        filename=entry.get("filename"),
        subfolder=entry.get("subfolder") or "",
        folder=entry.get("type") or "output",
        text=entry["text"] if isinstance(entry.get("text"), str) else None,
    )
    if file.text is None and entry.get("error"):
        code = str(entry.get("code") or "E_REPLY_TYPE")
        return Unreadable(file, ServerFailed(code, str(entry["error"]), retryable=False))
    return file
