"""One try of a ComfyUI step: choose a server, send its files and its workflow there, follow it, bring files home.

A prompt is recorded with its server before it is sent. A later try, in this process or the next, first looks
for it there: what a server still knows is gone on with, and rendered once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from towpath.artifact import Artifact, File, KeptFile, Origin
from towpath.context import StepContext
from towpath.errors import PromptFailed, ServerFailed
from towpath.events import PromptSent
from towpath.media import extension
from towpath.model import ArtifactApproval, Json, kind_of
from towpath.ports import Files, ReadingStore
from towpath.secrets import Secret, revealed, without

from .api_format import node_title
from .client import ComfyClient, refuse_dropped
from .downloads import Limits, download, shown_name
from .execution_log import ExecutionLog
from .object_info import check_against
from .parameters import apply_parameters, with_own_prefixes
from .pool import PROBE, Member, ServerPool
from .progress_socket import Heard
from .replies import OutputFile, Outputs, PromptState, Record, failed_prompt, outputs_of
from .tracking import follow, listening
from .tries import WorkflowTry
from .uploads import Target, send_all
from .workflow_files import Workflow

DOWNLOADS = 4  # files of one prompt on their way at the same time
GRACE = 10.0  # seconds for a server to hear that a prompt is not wanted any more
_NOT_GIVEN = frozenset({"E_OUTPUT_REFUSED", "E_OUTPUT_MISSING"})
_JUDGED_BY_SERVER = frozenset({"E_NODE_CHOICE", "E_NODE_RANGE"})  # nodes may accept more than they declare


@dataclass(frozen=True, slots=True)
class Rules:
    """How workflows are run: may a server leave outputs out, and how large and slow may a file be."""

    partial_outputs: bool = False
    check: bool = True
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Finished:
    """A prompt that completed, what the server's history says of it, and its log."""

    prompt_id: str
    record: Record
    log: ExecutionLog


class WorkflowRunner:
    """Carries out tries of ComfyUI steps on the servers of a pool."""

    def __init__(self, pool: ServerPool, store: ReadingStore, rules: Rules | None = None) -> None:
        self.pool = pool
        self._store = store
        self.rules = rules or Rules()

    async def run(self, work: WorkflowTry) -> Any:
        """The value of the step: its files by node and kind, and the seed's words `type format count`.

        Raises:
            PromptFailed: E_PROMPT_…, E_NODE_…. ServerFailed: E_SERVER_…, E_DOWNLOAD_…, E_NO_OUTPUT.
        """
        member = await self._with_prompt(work)
        if member is None:
            member = await self._ready(work)
            return await self._value(work, member, await self._prompted(work, member))
        prompt = work.row.prompt
        assert prompt is not None
        work.context.logger.info("going on with prompt %s on %s", prompt, member.server.name)
        log = await ExecutionLog.of(self._store.files.folder, prompt)
        return await self._value(work, member, await self._followed(work, member.client, prompt, log))

    # ---- a prompt of an earlier try

    async def _with_prompt(self, work: WorkflowTry) -> Member | None:
        """The server that still has this step's prompt, waiting, running or done."""
        row = work.row
        member = self.pool.member(row.server) if row.server and row.prompt else None
        if member is None or row.prompt is None:
            return None
        state = PromptState.UNKNOWN
        with suppress(ServerFailed):
            state = await self._state(member.client, row.prompt)
        if state in (PromptState.FAILED, PromptState.CANCELLED):
            row.prompt = None  # that one is spent; the next gets an id of its own
        if state not in (PromptState.PENDING, PromptState.RUNNING, PromptState.COMPLETED):
            return None
        if work.seat.member is not member:
            self.pool.give_back(work.seat)
            work.seat = self.pool.take_of(member, work.seat.need)
        return member

    async def _state(self, client: ComfyClient, prompt_id: str) -> PromptState:
        """Where a prompt is; a prompt on its way from queue to history is looked for twice."""
        state = await client.state(prompt_id)
        if state is PromptState.UNKNOWN:
            await anyio.sleep(0.2)
            state = await client.state(prompt_id)
        return state

    # ---- a new prompt

    async def _prompted(self, work: WorkflowTry, member: Member) -> Finished:
        client, row = member.client, work.row
        await self._refuse_rejected(work.arguments)
        folder = self._store.files.folder
        log = (
            ExecutionLog(folder, str(uuid.uuid4())) if row.prompt is None else await ExecutionLog.of(folder, row.prompt)
        )
        prompt_id = log.prompt_id
        await log.write("server.selected", server=member.server.name, url=member.server.url, step=work.step.id)
        target = Target(work.run_id, row.id, row.step, row.item, member)
        workflow = Workflow.from_json(work.workflow)
        values, sent_files = await send_all(work.arguments, target, self._store, work.record)
        secrets: list[Secret[Any]] = []
        values = revealed(values, secrets)
        graph = with_own_prefixes(apply_parameters(workflow, values), prompt_id.replace("-", "")[:16])
        told = without(graph, [secret.reveal() for secret in secrets])
        if self.rules.check:
            await self._check(work, client, graph)
        row.server, row.prompt = member.server.name, prompt_id
        sent = PromptSent(row.id, row.step, row.item, member.server.name, prompt_id, told)
        await work.record([*sent_files, sent])
        await log.write("workflow.submitted", server=member.server.name, workflow=workflow.name, graph=told)
        return await self._submitted(work, member, sent, graph, log)

    async def _refuse_rejected(self, arguments: Any) -> None:
        """A person may have rejected a file since the step that made it was done. It is sent to no server then.

        Raises ServerFailed (E_ARTIFACT_REJECTED).
        """
        given = {artifact.id: artifact for artifact in _files_in(arguments)}
        for row in {artifact.row.workflow_id for artifact in given.values()}:
            for latest in await self._store.latest_artifacts(row):
                if latest.id in given and latest.approval_status == ArtifactApproval.REJECTED:
                    message = f"{latest.name} v{latest.version} was rejected: it is sent to no server"
                    raise ServerFailed("E_ARTIFACT_REJECTED", message, retryable=False)

    async def _submitted(
        self, work: WorkflowTry, member: Member, sent: PromptSent, graph: Json, log: ExecutionLog
    ) -> Finished:
        """Send the graph itself; `sent` holds it as it is told."""
        client = member.client
        titles = _titles(work.workflow)
        client_id = uuid.uuid4().hex
        heard = self._heard(work, sent.prompt_id, log)
        try:
            async with listening(client, client_id, heard):
                taken = await client.submit(graph, sent.prompt_id, client_id, titles)
                if taken.prompt_id != sent.prompt_id:  # an old server that gives ids of its own
                    heard.prompt_id = work.row.prompt = taken.prompt_id
                    await work.record([replace(sent, prompt_id=taken.prompt_id)])
                await log.write("workflow.queued", server=member.server.name)
                work.context.logger.info("prompt %s is on %s", taken.prompt_id, member.server.name)
                if not self.rules.partial_outputs:
                    await self._refuse_partial(client, taken.prompt_id, taken)
                return await self._finished(work, client, taken.prompt_id, heard, log)
        except PromptFailed as error:
            work.row.prompt = None
            await log.write("workflow.failed", code=error.code, message=error.problem.message, nodes=error.nodes)
            raise
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _refuse_partial(self, client: ComfyClient, prompt_id: str, taken: Any) -> None:
        try:
            refuse_dropped(taken)
        except PromptFailed:
            await self.abandon(client, prompt_id)
            raise

    async def _ready(self, work: WorkflowTry) -> Member:
        """The server of our slot if it answers, else another one that does; with patience, if none does."""
        began = anyio.current_time()
        while True:
            member: Member = work.seat.member
            try:
                await _answers(member)
                return member
            except ServerFailed as error:
                if not error.retryable:
                    raise
                other = self.pool.instead(work.seat)
                if other is None and anyio.current_time() - began >= member.connection.longest(error):
                    raise
            if other is not None:
                work.context.logger.warning("server %s is in trouble, using another", member.server.name)
                work.seat = other

    async def _check(self, work: WorkflowTry, client: ComfyClient, graph: dict[str, Any]) -> None:
        """Refuse what the server could not run, before it is sent."""
        kinds = frozenset(str(node["class_type"]) for node in graph.values())
        info = await client.object_info(kinds)
        if not info:
            return  # a server that tells nothing judges for itself
        problems = [p for p in check_against(graph, info) if p.code not in _JUDGED_BY_SERVER]
        if problems:
            lines = tuple(p.message for p in problems)
            raise PromptFailed(problems[0].code, f"{client.connection.server.name}: {'; '.join(lines)}", nodes=lines)

    # ---- following it

    async def _followed(self, work: WorkflowTry, client: ComfyClient, prompt_id: str, log: ExecutionLog) -> Finished:
        heard = self._heard(work, prompt_id, log)
        try:
            return await self._finished(work, client, prompt_id, heard, log)
        except PromptFailed as error:
            work.row.prompt = None
            await log.write("workflow.failed", code=error.code, message=error.problem.message, nodes=error.nodes)
            raise

    async def _finished(
        self, work: WorkflowTry, client: ComfyClient, prompt_id: str, heard: Heard, log: ExecutionLog
    ) -> Finished:
        """A prompt that completed. Raises what stopped it."""
        try:
            record = await follow(client, prompt_id, heard)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await log.write("workflow.cancelled", sockets=heard.closed)
            raise
        except ServerFailed as error:
            await log.write("workflow.failed", code=error.code, message=error.problem.message)
            raise
        await log.write("history.complete", state=record.state, messages=record.messages, sockets=heard.closed)
        if record.state is not PromptState.COMPLETED:
            error_ = failed_prompt(record, _titles(work.workflow))
            if error_.code == "E_NODE_MEMORY":
                with suppress(ServerFailed):
                    await client.free_memory()
            raise error_
        await log.write("workflow.success", outputs=record.outputs)
        return Finished(prompt_id, record, log)

    def _heard(self, work: WorkflowTry, prompt_id: str, log: ExecutionLog) -> Heard:
        return Heard(
            prompt_id,
            on_node=lambda node: log.note("node.executing", node=node),
            on_progress=work.context.progress,
        )

    async def abandon(self, client: ComfyClient, prompt_id: str) -> None:
        """Tell a server, by its id, that a prompt is not wanted any more; back when it is gone, or after a while."""
        with anyio.move_on_after(GRACE, shield=True), suppress(ServerFailed):
            while True:
                await client.cancel(prompt_id)
                # Looked for twice: it may have been stopped while it was being sent, and come to the server only now.
                if await self._state(client, prompt_id) not in (PromptState.PENDING, PromptState.RUNNING):
                    return
                await anyio.sleep(0.1)

    # ---- bringing files home

    async def _value(self, work: WorkflowTry, member: Member, done: Finished) -> Any:
        found = outputs_of(done.record)
        for line in found.odd:
            work.context.logger.warning("an output that is not understood: %s", line)
        if not found.files and not found.texts:
            raise _nothing(member, done.prompt_id)
        try:
            kept = await self._downloaded(work, member, found.files)
        except ServerFailed as error:
            if error.code == "E_OUTPUT_MISSING":
                work.row.prompt = None  # made once more, if the step has tries left
            raise
        await done.log.write(
            "images.downloaded", files=[f"{kept_file.filename} {kept_file.digest}" for kept_file in kept.values()]
        )
        if not kept and not found.texts:
            raise _nothing(member, done.prompt_id)
        return step_value(replace(found, files=tuple(kept)), list(kept.values()))

    async def _downloaded(
        self, work: WorkflowTry, member: Member, files: tuple[OutputFile, ...]
    ) -> dict[OutputFile, KeptFile]:
        """The files by what the server says of them. One whose name is hostile, and which the server itself does
        not give out under that name, is left out: it fails no run.
        """
        kept: dict[int, KeptFile] = {}
        limit = anyio.CapacityLimiter(DOWNLOADS)

        async def one(index: int) -> None:
            async with limit:
                try:
                    kept[index] = await bring_home(
                        member, files[index], self._store.files, self.rules.limits, work.context
                    )
                except ServerFailed as error:
                    if error.code not in _NOT_GIVEN or not shown_name(files[index], "")[1]:
                        raise
                    work.context.logger.warning("left out: %s", error.problem.message)

        try:
            async with anyio.create_task_group() as tasks:
                for index in range(len(files)):
                    tasks.start_soon(one, index)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return {files[index]: kept[index] for index in sorted(kept)}


def _nothing(member: Member, prompt_id: str) -> ServerFailed:
    return member.connection.error(
        "E_NO_OUTPUT",
        f"prompt {prompt_id} is done and made nothing that could be kept",
        cure="end the workflow in a node that saves, such as SaveImage",
        retryable=False,
    )


async def _answers(member: Member) -> None:
    """Does a server answer now? One that takes the question and says nothing is in trouble as well.

    Raises ServerFailed: E_SERVER_….
    """
    known = member.well
    with anyio.move_on_after(PROBE):
        await member.connection.json("GET", "/prompt", patient=False)
        return
    if known:
        member.connection.rest.failed()
    raise member.connection.error("E_SERVER_TIMEOUT", f"no answer within {PROBE:g} s")


def _files_in(value: Any) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _files_in(inner)


async def bring_home(
    member: Member, file: OutputFile, files: Files, limits: Limits, context: StepContext | None = None
) -> KeptFile:
    """Download one file into the store. Raises ServerFailed as `download` does, StoreFailed."""
    fallback = f"node-{file.node}"
    async with aclosing(download(member.connection, file, limits, fallback)) as downloads:
        async for one in downloads:
            if one.refused_name and context is not None:
                context.logger.warning("%s: the name of a file of node %s", one.refused_name, file.node)
            name = one.filename if not one.refused_name else f"{fallback}{extension(one.media_type)}"
            return await files.keep(one.chunks, name, one.media_type)
    raise AssertionError("a download gives one file")


def step_value(found: Outputs, kept: list[KeptFile]) -> dict[str, Any]:
    """What a ComfyUI step returns: `{node: {kind: [file, …], text: [text, …]}}` and, as the original system
    did, `type`, `format` and `count`, and `text` for the first text.

    Where a node answers with texts, `text` is these texts alone: its files of text are under `file`.
    """
    nodes: dict[str, dict[str, list[Any]]] = {}
    for file, kept_file in zip(found.files, kept, strict=True):
        origin = Origin(file.node, str(file.subfolder), str(file.folder))
        kind = kind_of(kept_file.media_type)
        if kind == "text" and file.node in found.texts:
            kind = "file"
        nodes.setdefault(file.node, {}).setdefault(kind, []).append(File(kept_file, origin=origin))
    for node, texts in found.texts.items():
        nodes.setdefault(node, {}).setdefault("text", []).extend(texts)
    value: dict[str, Any] = {"count": len(kept)}
    if kept:
        value["type"] = kind_of(kept[0].media_type)
        value["format"] = kept[0].filename.rpartition(".")[2].lower()
    if found.texts:
        value["text"] = next(iter(found.texts.values()))[0]
    return {**value, **nodes}


def _titles(workflow: Json) -> dict[str, str]:
    return {node_id: node_title(node) for node_id, node in Workflow.from_json(workflow).graph.items()}
