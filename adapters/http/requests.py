"""What goes over the wire as a body. A field that is not named here is refused."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Json = Any
By = Annotated[str, Meta(max_length=200)]
Reason = Annotated[str, Meta(max_length=10_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class Taken(Struct, forbid_unknown_fields=True, frozen=True):
    """A body: a field that is not known is refused."""


class StartBody(Taken, frozen=True):
    """Start a run: a chain file by its name, or YAML.

    A file input is `{"artifact": id}`, or `{"base64": …, "filename": …}` for a small one.
    """

    chain: Annotated[str, Meta(max_length=500)] | None = None
    yaml: Annotated[str, Meta(max_length=1_000_000)] | None = None
    inputs: dict[str, Json] = {}
    run_id: Name | None = None


class RerunBody(Taken, frozen=True):
    """Which part of a run is made again, and with what."""

    from_steps: list[str] = []
    inputs: dict[str, Json] = {}
    parameters: dict[str, Json] = {}


class ApproveBody(Taken, frozen=True):
    """`seen` are the ids of the artifact versions that the person looked at."""

    seen: list[str]
    by: By = ""
    reason: Reason = ""


class RejectBody(Taken, frozen=True):
    """`action` is stop, skip or regenerate; default: what the chain says."""

    by: By = ""
    reason: Reason = ""
    action: str | None = None
    parameters: dict[str, Json] | None = None


class LinkBody(Taken, frozen=True):
    """A decision by whoever holds a link. `decided_by` is read as `by`."""

    by: By = ""
    decided_by: By = ""
    reason: Reason = ""
    seen: list[str] | None = None
    action: str | None = None
    parameters: dict[str, Json] | None = None


class KeyBody(Taken, frozen=True):
    """A new key."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    role: str


class LoginBody(Taken, frozen=True):
    """A key, for a session in a browser."""

    key: Annotated[str, Meta(max_length=200)]


class LinkLife(Taken, frozen=True):
    """How many hours a link is good for."""

    hours: Annotated[float, Meta(gt=0, le=24 * 365)] | None = None
