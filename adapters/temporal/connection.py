"""The address of a Temporal server: `temporal://host:port/namespace?task_queue=name`, or Temporal's own profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError

from towpath.errors import InputInvalid, ServerFailed
from towpath.retry import seconds

from .messages import workflow_id

TASK_QUEUE = "towpath"
HEARTBEAT = 10.0
SHORTEST_HEARTBEAT = 1.0
_OPTIONS = {"task_queue", "heartbeat", "granularity"}
_ALLOWED = "temporal://host:port/namespace?task_queue=towpath&heartbeat=10s (each part may be left out)"


@dataclass(frozen=True, slots=True)
class TemporalAddress:
    """Where runs are executed. Temporal's profile (`TEMPORAL_…`, `temporal.toml`) replaces empty parts.

    `heartbeat`: seconds without a heartbeat after which a step goes to another worker.
    `granularity`: `step` (a child workflow for each step) or `auto` (one for several cheap steps).
    """

    target: str = ""
    namespace: str = ""
    task_queue: str = TASK_QUEUE
    heartbeat: float = HEARTBEAT
    granularity: str = "step"

    def workflow_id(self, run_id: str) -> str:
        """The id of a run's `Chain` workflow."""
        return workflow_id(self.task_queue, run_id)


def parse_address(url: str) -> TemporalAddress:
    """The address in the `adapter` setting. Raises InputInvalid (E_SETTING)."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError as error:
        raise InputInvalid("E_SETTING", f"adapter: {error}", found=url, allowed=_ALLOWED) from None
    namespace = parts.path.strip("/")
    if "/" in namespace or parts.fragment or parts.username or not options.keys() <= _OPTIONS:
        raise InputInvalid("E_SETTING", "adapter", found=url.rpartition("@")[2], allowed=_ALLOWED)
    target = f"{_bracketed(parts.hostname)}:{port or 7233}" if parts.hostname else ""
    queue = options.get("task_queue") or TASK_QUEUE
    if len(queue) > 200 or not queue.isprintable():
        raise InputInvalid("E_SETTING", "task_queue", found=queue, allowed="1 to 200 printable characters")
    granularity = options.get("granularity", "step")
    if granularity not in ("step", "auto"):
        raise InputInvalid("E_SETTING", "granularity", found=granularity, allowed="step, auto")
    return TemporalAddress(target, namespace, queue, _heartbeat(options.get("heartbeat")), granularity)


def _heartbeat(given: str | None) -> float:
    if given is None:
        return HEARTBEAT
    heartbeat = seconds(float(given) if given.replace(".", "", 1).isdigit() else given)
    if heartbeat < SHORTEST_HEARTBEAT:
        raise InputInvalid("E_SETTING", "heartbeat", found=given, allowed=f"{SHORTEST_HEARTBEAT:g}s or longer")
    return heartbeat


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def connect(address: TemporalAddress, *, lazy: bool = True, metrics_port: int | None = None) -> Client:
    """A client. A `lazy` one connects at its first call. `metrics_port`: a loopback port for the SDK's metrics.

    Raises InputInvalid (E_SETTING), and unless `lazy` ServerFailed (E_TEMPORAL_UNREACHABLE).
    """
    options: dict[str, Any] = {"target_host": "localhost:7233", **_profile()}
    if address.target:
        options["target_host"] = address.target
    if address.namespace:
        options["namespace"] = address.namespace
    if metrics_port is not None:
        options["runtime"] = _with_metrics(metrics_port)
    try:
        return await Client.connect(**options, lazy=lazy)
    except (RPCError, RuntimeError, OSError) as error:
        raise unreachable(address, error) from error


def _profile() -> Any:
    """The options in Temporal's own profile and variables."""
    try:
        return ClientConfig.load_client_connect_config()
    except (RuntimeError, ValueError, OSError) as error:
        cure = "correct temporal.toml, or the TEMPORAL_… variables"
        raise InputInvalid("E_SETTING", f"Temporal's profile: {str(error)[:300]}", cure=cure) from error


def _with_metrics(port: int) -> Runtime:
    try:
        prometheus = PrometheusConfig(bind_address=f"127.0.0.1:{port}")
        return Runtime(telemetry=TelemetryConfig(metrics=prometheus))
    except (RuntimeError, ValueError) as error:
        allowed = "a free port"
        raise InputInvalid("E_SETTING", f"metrics port: {error}", found=port, allowed=allowed) from error


def unreachable(address: TemporalAddress, error: Exception) -> ServerFailed:
    """The error for a Temporal server that does not answer."""
    return ServerFailed(
        "E_TEMPORAL_UNREACHABLE",
        f"the Temporal server does not answer: {str(error)[:300]}",
        found=address.target or "the address in Temporal's profile",
        cure="start it (`towpath temporal dev` starts one for development), or correct the `adapter` setting",
    )
