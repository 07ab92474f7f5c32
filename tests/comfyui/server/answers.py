"""How the server puts an answer into bytes."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import PlainTextResponse, Response

TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class Json(Response):
    """JSON in ASCII, as Python writes it: half characters and infinities get out, and a client has to stand them."""

    media_type = "application/json; charset=utf-8"

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(json.dumps(content).encode(), status_code)


def crash() -> Response:
    """What a client sees of an exception in a route."""
    return PlainTextResponse(TROUBLE, 500)


def nothing_there() -> Response:
    """No such route."""
    return PlainTextResponse("404: Not Found", 404)
