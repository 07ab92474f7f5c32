"""What may go wrong with this server, as one list. Tests switch it with POST /test/faults.

A field that counts is the number of times the fault still happens; each time takes one off. A field of
seconds begins when the fault is switched on. Everything is off at the start and after a reset.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Faults:
    """All faults. The names are the keys of POST /test/faults."""

    # Every request, or those whose path holds `only_path`.
    only_path: str = ""
    answer_status: int = 503  # 503, 429, 500, 502 … for as long as one of the next two lasts
    answer_status_requests: int = 0  # this many requests get it
    answer_status_seconds: float = 0.0  # all requests of the next seconds get it
    retry_after: str = ""  # the header Retry-After of these answers; empty: no such header
    answer_delay: float = 0.0  # seconds before a request is looked at
    cut_requests: int = 0  # connections closed before the request is looked at

    # POST /prompt.
    refuse_prompt: int = 0  # the connection is closed before the prompt is queued
    drop_prompt_answer: int = 0  # the prompt is queued, then the connection is closed without an answer
    prompt_delay: float = 0.0  # seconds between queuing and the answer
    prompt_other_id: int = 0  # the server makes its own prompt id, although the client gave one
    prompt_node_errors: int = 0  # 200, queued, and yet an error for the first node

    # Where a job stands.
    history_late: float = 0.0  # seconds between execution_success and the end of the job in queue and history
    history_gap: float = 0.0  # seconds in which an ended job is in no queue and not yet in history and jobs
    history_late_reads: int = 0  # reads of one ended job that still know nothing of it
    history_never: bool = False  # ended jobs are in no history and no jobs list
    jobs_route: bool = True  # false: /api/jobs is 404, as behind an old proxy

    # The websocket.
    websocket_refuse: bool = False  # 403 instead of a handshake
    websocket_close_at_once: bool = False  # closed right after the handshake, before the first message
    websocket_silent: bool = False  # nothing after the first message
    websocket_close_half_way: int = 0  # the connection is cut when a node reaches 50 %
    websocket_half_open: bool = False  # a lost socket is cleaned up only after the client is back: the new one suffers

    # Sent to the client when its prompt starts.
    websocket_big_frame: int = 0  # a binary preview of that many bytes
    websocket_invalid_utf8: bool = False  # a text frame that is no UTF-8
    websocket_json_list: bool = False  # a text frame that is a JSON list
    websocket_garbage: bool = False  # text that is no JSON, unknown types, data that is null, cut binary frames
    websocket_previews: bool = False  # binary previews with every progress
    websocket_flood: int = 0  # messages a second, as long as the prompt runs
    websocket_wrong_ids: bool = False  # every end that there is, of a prompt nobody knows
    websocket_error_then_success: bool = False  # execution_error of this prompt, which then goes on and succeeds
    websocket_absurd_progress: bool = False  # progress 1e308 of 0

    # Uploads.
    upload_cut_after: int = 0  # bytes of the body, after which the connection is cut
    upload_cuts: int = 0  # how many times
    upload_status: int = 500  # 500, 413 …
    upload_status_times: int = 0  # how many times
    upload_rename: bool = False  # the file is kept under another name, which the answer tells

    # GET /view.
    view_cut_after: int = 0  # bytes of the body, after which the connection is closed
    view_cuts: int = 0  # how many times
    view_rate: int = 0  # bytes a second; 0: as fast as it goes
    view_wrong_bytes: int = 0  # right length, wrong content, this many times
    view_html: int = 0  # 200 image/png with an HTML page in it, this many times
    view_empty: int = 0  # 200 with no bytes at all, this many times

    since: float = field(default_factory=time.monotonic)

    def change(self, given: dict[str, Any]) -> None:
        """Set the faults given. An unknown name raises KeyError: a misspelt fault would test nothing."""
        known = {each.name for each in fields(self)} - {"since"}
        for name, value in given.items():
            if name not in known:
                raise KeyError(name)
            setattr(self, name, value)
        self.since = time.monotonic()

    def clear(self) -> None:
        """Switch all of them off."""
        calm = Faults()
        for each in fields(self):
            setattr(self, each.name, getattr(calm, each.name))

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name, value in asdict(self).items() if name != "since"}

    def take(self, name: str) -> bool:
        """Whether a counted fault happens now; if so, it happens once less."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0

    def concerns(self, path: str) -> bool:
        """Whether the faults of every request hold for this path."""
        return self.only_path in path

    def refuses(self) -> bool:
        """Whether a request gets `answer_status` now."""
        return time.monotonic() - self.since < self.answer_status_seconds or self.take("answer_status_requests")
