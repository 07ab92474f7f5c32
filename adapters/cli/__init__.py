"""The command line: `towpath VERB`. The module of a verb is imported when the verb is used."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import click

from towpath.errors import Problem, TowpathError
from towpath.redaction import redacted

INTERRUPTED = 130
_VERBS = {
    "demo": ("run", "Run the demo: thumbnails and a contact sheet of photographs."),
    "run": ("run", "Run a chain: a YAML file, a Python file, or module:chain."),
    "resume": ("run", "Continue a run that is not finished."),
    "rerun": ("run", "Make a new run; reuse what an earlier one completed."),
    "plan": ("chains", "Show a chain's levels and critical path; run nothing."),
    "validate": ("chains", "Check chains and list all errors."),
    "schema": ("chains", "Print the JSON Schema of chain files, for editors."),
    "ls": ("show", "List runs, newest first."),
    "show": ("show", "Show a run, or one of its steps."),
    "logs": ("show", "Show what the steps of a run logged."),
    "artifacts": ("show", "List the files that runs made."),
    "get": ("show", "Copy the files of a run into a folder."),
    "approvals": ("decisions", "List approvals that wait for a decision."),
    "approve": ("decisions", "Approve what a step made."),
    "reject": ("decisions", "Reject what a step made: stop, skip or regenerate."),
    "edit": ("decisions", "Replace a file by a new version of it."),
    "pause": ("control", "Stop starting new steps of a run."),
    "cancel": ("control", "Cancel a run."),
    "rm": ("control", "Remove runs that are over."),
    "serve": ("server", "Start the server: pages and HTTP API."),
    "keys": ("server", "Add, list and revoke keys of the server."),
    "servers": ("comfyui", "List the ComfyUI servers and their state."),
    "workflows": ("comfyui", "List ComfyUI workflow files and their parameters."),
    "worker": ("temporal", "Start a Temporal worker."),
    "temporal": ("temporal", "`towpath temporal dev` starts a Temporal test server."),
    "bench": ("bench", "Measure towpath beside other engines."),
    "fsck": ("control", "Check the store: rows, versions, blobs."),
}


_AT_A_STORE = frozenset(
    "run resume rerun ls show logs artifacts get approvals approve reject edit pause cancel rm serve keys fsck".split()
)


class _Verbs(click.Group):
    """Imports a verb's module only when the verb is used; so `--help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"{__name__}.{_VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_verb")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, about) for name, (_, about) in _VERBS.items()])


@click.group(cls=_Verbs, subcommand_metavar="VERB [ARGS]...", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="towpath", prog_name="towpath")
def towpath() -> None:
    """Run chains of steps and keep every file they make.

    Exit codes: 0 done, 1 the chain did not complete, 2 bad input, 3 paused for an approval,
    4 an error of the store, the disk or a server, 130 interrupted.
    """


def main() -> None:
    """The `towpath` command. Every TowpathError is printed as a sentence and becomes an exit code, without a traceback.

    The command also works when its output cannot be written; the exit code is the same.
    """
    from . import streams  # noqa: PLC0415 - importing this package must stay cheap

    streams.install()
    as_json = "--json" in sys.argv
    try:
        outcome: Any = towpath.main(standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        usage = io.StringIO()
        error.show(file=usage)
        streams.write(streams.shown_lines(redacted(usage.getvalue())), err=True)
        code = 2
    except click.Abort:
        code = INTERRUPTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TowpathError as error:
        print_error(error, as_json)
        code = error.exit_code
    except Exception as error:  # a bug in towpath: Python's traceback, without secrets
        streams.write(streams.shown_lines(redacted("".join(traceback.format_exception(error)))), err=True)
        code = 1
    if code == INTERRUPTED:
        streams.flush_queues()
        os._exit(code)  # while Python shuts down, signals have their defaults: a second Ctrl-C would kill it
    sys.exit(code)


def print_error(error: TowpathError, as_json: bool) -> None:
    """Print an error: as text on stderr, or as JSON on stdout."""
    if as_json:
        from .screen import print_json  # noqa: PLC0415

        print_json({"errors": [p.as_json() for p in error.problems]})
    else:
        print_problems(error.problems)
        _print_source(error)


def _print_source(error: TowpathError) -> None:
    """For an error of a database that only `DATABASE_URL` named, say so: other programs use that variable too."""
    named = os.environ.get("TOWPATH_STORE") or any(argument.startswith("--store") for argument in sys.argv)
    if error.code.startswith(("E_DB_", "E_SCHEMA_")) and os.environ.get("DATABASE_URL") and not named:
        from .screen import say  # noqa: PLC0415

        say("  the store is the one of the environment variable DATABASE_URL; --store goes before it", err=True)


def print_problems(problems: Sequence[Problem]) -> None:
    """Print problems on stderr: code, place, sentence, what was found, what is allowed, the cure."""
    from .screen import folded, say  # noqa: PLC0415
    from .streams import shown, shown_lines, write  # noqa: PLC0415

    for (place, message), group in groupby(problems, lambda p: (p.place, p.message)):
        same = list(group)
        codes = ", ".join(dict.fromkeys(p.code for p in same))
        where = shown(f" at {place}") if str(place) else ""
        first, _, rest = shown_lines(message).partition("\n")
        head, *more = folded(f"error {codes}{where}: {first}")
        say(("error", "bold red"), head.removeprefix("error"), err=True)
        for label, text in (("", rest), ("found", same[0].found), ("allowed", same[0].allowed), ("cure", same[0].cure)):
            if text:
                more += folded(f"  {label}{': ' if label else ''}{shown_lines(_at_this_store(text))}")
        for line in more:
            write(f"{line}\n", err=True)


def _at_this_store(text: str) -> str:
    """The commands that an error names, with the `--store` of this one: what raises it does not know of it."""
    import re  # noqa: PLC0415 - only errors need it
    import shlex  # noqa: PLC0415

    given = [*sys.argv[1:], ""]
    named = [
        word.partition("=")[2] or given[n + 1] for n, word in enumerate(given) if word.partition("=")[0] == "--store"
    ]
    if not named or not named[-1]:
        return text
    at = f" --store {shlex.quote(named[-1])}"
    return re.sub(
        r"`(towpath (\w+)[^`]*)`",
        lambda found: f"`{found[1]}{at}`" if found[2] in _AT_A_STORE and " --store" not in found[1] else found[0],
        text,
    )
