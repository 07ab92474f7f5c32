"""Bodies of requests, as msgspec types. A field that is not named here is refused."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from towpath.model import Json

By = Annotated[str, Meta(max_length=200)]
Reason = Annotated[str, Meta(max_length=10_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Tags = dict[str, str] | list[str]


class RequestBody(Struct, forbid_unknown_fields=True, frozen=True):
    """A body without unknown fields."""


class StartBody(RequestBody, frozen=True):
    """Start a run: a chain file by its name, or YAML.

    A file input is `{"artifact": id}`, or `{"base64": …, "filename": …}` for a small one. `name` and `tags` are for
    people, to find the run again.
    """

    chain: Annotated[str, Meta(max_length=500)] | None = None
    yaml: Annotated[str, Meta(max_length=1_000_000)] | None = None
    inputs: dict[str, Json] = {}
    run_id: Name | None = None
    name: Name | None = None
    tags: Tags | None = None


class RerunBody(RequestBody, frozen=True):
    """Which steps of a run run again (with all that depend on them), and with which inputs and arguments.

    Without `name` or `tags` the new run has those of the run before.
    """

    from_steps: list[str] = []
    inputs: dict[str, Json] = {}
    parameters: dict[str, Json] = {}
    name: Name | None = None
    tags: Tags | None = None


class ApproveBody(RequestBody, frozen=True):
    """`seen` holds the ids of the artifact versions that the person looked at."""

    seen: list[str]
    by: By = ""
    reason: Reason = ""


class RejectBody(RequestBody, frozen=True):
    """`action` is stop, skip or regenerate; the default is the chain's `on_rejected`."""

    by: By = ""
    reason: Reason = ""
    action: str | None = None
    parameters: dict[str, Json] | None = None


class LinkBody(RequestBody, frozen=True):
    """A decision through an approval link. `decided_by` is another name of `by`."""

    by: By = ""
    decided_by: By = ""
    reason: Reason = ""
    seen: list[str] | None = None
    action: str | None = None
    parameters: dict[str, Json] | None = None


class KeyBody(RequestBody, frozen=True):
    """A new key."""

    name: Annotated[str, Meta(min_length=1, max_length=100)]
    role: str


class LoginBody(RequestBody, frozen=True):
    """A key, for a session in a browser."""

    key: Annotated[str, Meta(max_length=200)]


class LinkLife(RequestBody, frozen=True):
    """How many hours a link is valid."""

    hours: Annotated[float, Meta(gt=0, le=24 * 365)] | None = None
