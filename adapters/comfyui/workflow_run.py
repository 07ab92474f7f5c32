"""One try of a ComfyUI step: choose a server, send its files and its workflow there, follow it, bring files home.

A prompt is recorded with its server before it is submitted. A later try, in this process or in another one, first
asks that server for the prompt. A prompt that the server still has is followed and not submitted again.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from msgspec import structs

from towpath.artifact import File, KeptFile, Origin
from towpath.errors import PromptFailed, ServerFailed
from towpath.events import PromptSent
from towpath.model import kind_of
from towpath.ports import ReadingStore
from towpath.secrets import Secret, revealed, without

from .client import ComfyClient
from .downloads import Download, Limits, bring_all, shown_name
from .execution_log import ExecutionLog
from .object_info import check_against
from .parameters import apply_parameters, with_own_prefixes
from .pool import Member, ServerPool
from .prompt import Prompt
from .replies import OutputFile, Outputs, PromptRecord, PromptState, outputs_of
from .uploads import Target, artifacts_in, refuse_rejected, send_all
from .workflow_files import Workflow
from .workflow_try import WorkflowTry

_NOT_GIVEN = frozenset({"E_OUTPUT_REFUSED", "E_OUTPUT_MISSING"})
_JUDGED_BY_SERVER = frozenset({"E_NODE_CHOICE", "E_NODE_RANGE"})  # nodes may accept more than they declare


@dataclass(frozen=True, slots=True)
class Rules:
    """How workflows are run: may a server leave outputs out, and how large and slow may a file be."""

    partial_outputs: bool = False
    check: bool = True
    limits: Limits = field(default_factory=Limits)


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
        earlier = await self._earlier(work)
        if earlier is None:
            prompt, sent = await self._prepared(work, await self._ready(work))
        else:
            work.context.logger.info("following prompt %s on %s", earlier.id, earlier.member.server.name)
            prompt, sent = earlier, None
        try:
            record = await (prompt.follow() if sent is None else self._submitted(work, prompt, sent))
        except PromptFailed:
            work.row.prompt = None
            raise
        await prompt.log.write("workflow.success", outputs=record.outputs)
        return await self._value(work, prompt, record)

    async def abandon(self, member: Member, prompt_id: str) -> None:
        """Cancel a prompt by its id. Never raises ServerFailed."""
        await Prompt(member, {}, prompt_id, ExecutionLog(self._store.files.folder, prompt_id)).abandon()

    # ---- the prompt of an earlier try

    async def _earlier(self, work: WorkflowTry) -> Prompt | None:
        """The prompt of an earlier try, if its server still has it: waiting, running or completed."""
        row = work.row
        member = self.pool.member(row.server) if row.server and row.prompt else None
        if member is None or row.prompt is None:
            return None
        log = await ExecutionLog.of(self._store.files.folder, row.prompt)
        graph = Workflow.from_json(work.workflow).graph
        prompt = Prompt(member, graph, row.prompt, log, work.context.progress)
        state = PromptState.UNKNOWN
        with suppress(ServerFailed):
            state = await prompt.state()
        if state in (PromptState.FAILED, PromptState.CANCELLED):
            row.prompt = None  # its id is used up; the next prompt gets a new one
        if state not in (PromptState.PENDING, PromptState.RUNNING, PromptState.COMPLETED):
            return None
        if work.slot.member is not member:
            self.pool.give_back(work.slot)
            work.slot = self.pool.take_of(member, work.slot.need)
        return prompt

    # ---- a new prompt

    async def _ready(self, work: WorkflowTry) -> Member:
        """The server of the try's slot if it answers, else another healthy one. Retries while none answers."""
        began = anyio.current_time()
        while True:
            member: Member = work.slot.member
            try:
                await member.probe()
                return member
            except ServerFailed as error:
                if not error.retryable:
                    raise
                other = self.pool.instead(work.slot)
                if other is None and anyio.current_time() - began >= member.connection.retry_seconds(error):
                    raise
            if other is not None:
                work.context.logger.warning("server %s is in trouble, using another", member.server.name)
                work.slot = other

    async def _prepared(self, work: WorkflowTry, member: Member) -> tuple[Prompt, PromptSent]:
        """A prompt that is recorded, with its files on the server, and ready to be submitted.

        The fact holds its graph without secrets.
        """
        row, folder = work.row, self._store.files.folder
        await self._refuse_rejected(work.arguments)
        if row.prompt is None:
            log = ExecutionLog(folder, str(uuid.uuid4()))
        else:
            log = await ExecutionLog.of(folder, row.prompt)
        await log.write("server.selected", server=member.server.name, url=member.server.url, step=work.step.id)
        target = Target(work.run_id, row.id, row.step, row.item, member)
        workflow = Workflow.from_json(work.workflow)
        values, transfers = await send_all(work.arguments, target, self._store, work.record)
        secrets: list[Secret[Any]] = []
        values = revealed(values, secrets)
        graph = with_own_prefixes(apply_parameters(workflow, values), log.prompt_id)
        redacted = without(graph, [secret.reveal() for secret in secrets])
        if self.rules.check:
            await _check(member.client, graph)
        row.server, row.prompt = member.server.name, log.prompt_id
        sent = PromptSent(row.id, row.step, row.item, member.server.name, log.prompt_id, redacted)
        await work.record([*transfers, sent])
        await log.write("workflow.submitted", server=member.server.name, workflow=workflow.name, graph=redacted)
        return Prompt(member, graph, log.prompt_id, log, work.context.progress), sent

    async def _refuse_rejected(self, arguments: Any) -> None:
        """Raise ServerFailed (E_ARTIFACT_REJECTED) for a file that was rejected after its step had completed."""
        given = {artifact.id: artifact for artifact in artifacts_in(arguments)}
        for row in {artifact.row.workflow_id for artifact in given.values()}:
            for latest in await self._store.latest_artifacts(row):
                if latest.id in given:
                    refuse_rejected(latest)

    async def _submitted(self, work: WorkflowTry, prompt: Prompt, sent: PromptSent) -> PromptRecord:
        async def renamed(prompt_id: str) -> None:
            work.row.prompt = prompt_id
            await work.record([structs.replace(sent, prompt_id=prompt_id)])

        work.context.logger.info("submitting prompt %s to %s", prompt.id, prompt.member.server.name)
        return await prompt.submit(partial_outputs=self.rules.partial_outputs, renamed=renamed)

    # ---- bringing files home

    async def _value(self, work: WorkflowTry, prompt: Prompt, record: PromptRecord) -> Any:
        found = outputs_of(record)
        for line in found.odd:
            work.context.logger.warning("an output that is not understood: %s", line)
        if not found.files and not found.texts:
            raise _no_output(prompt)
        try:
            kept = await self._downloaded(work, prompt.member, found.files)
        except ServerFailed as error:
            if error.code == "E_OUTPUT_MISSING":
                work.row.prompt = None  # the next try, if there is one, submits a new prompt
            raise
        await prompt.log.write("images.downloaded", files=[f"{file.filename} {file.digest}" for file in kept.values()])
        if not kept and not found.texts:
            raise _no_output(prompt)
        return step_value(replace(found, files=tuple(kept)), list(kept.values()))

    async def _downloaded(
        self, work: WorkflowTry, member: Member, files: tuple[OutputFile, ...]
    ) -> dict[OutputFile, KeptFile]:
        """The files in the store. A file is left out if its name is hostile and the server does not serve it."""
        logger = work.context.logger

        async def keep(file: OutputFile, download: Download) -> KeptFile:
            if download.refused_name:
                logger.warning("%s: the name of a file of node %s", download.refused_name, file.node)
            return await self._store.files.keep(download.chunks, download.filename, download.media_type)

        def left_out(file: OutputFile, error: ServerFailed) -> None:
            if error.code not in _NOT_GIVEN or not shown_name(file)[1]:
                raise error
            logger.warning("left out: %s", error.problem.message)

        found = await bring_all(member.connection, files, keep, self.rules.limits, failed=left_out)
        return {file: kept for file, kept in zip(files, found, strict=True) if kept is not None}


async def _check(client: ComfyClient, graph: dict[str, Any]) -> None:
    """Raise PromptFailed for what the server could not run, before it is submitted."""
    kinds = frozenset(str(node["class_type"]) for node in graph.values())
    info = await client.object_info(kinds)
    if not info:
        return  # a server that declares nothing decides when it gets the graph
    problems = [p for p in check_against(graph, info) if p.code not in _JUDGED_BY_SERVER]
    if problems:
        lines = tuple(p.message for p in problems)
        raise PromptFailed(problems[0].code, f"{client.connection.server.name}: {'; '.join(lines)}", nodes=lines)


def _no_output(prompt: Prompt) -> ServerFailed:
    return prompt.member.connection.error(
        "E_NO_OUTPUT",
        f"prompt {prompt.id} completed without a file or text to keep",
        cure="end the workflow in a node that saves, such as SaveImage",
        retryable=False,
    )


def step_value(found: Outputs, kept: list[KeptFile]) -> dict[str, Any]:
    """What a ComfyUI step returns: `{node: {kind: [file, …], text: [text, …]}}` and, as the original system
    did, `type`, `format` and `count`, and `text` for the first text.

    If a node returned texts, `text` holds these texts alone; its text files are under `file`.
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
