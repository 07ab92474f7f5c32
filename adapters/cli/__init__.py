"""The command line: `towpath VERB`. Verbs live in modules that are imported when they are used."""

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
    "demo": ("running", "Run the demo: thumbnails, palettes and a contact sheet of photographs."),
    "run": ("running", "Run a chain: a YAML file, or module:chain."),
    "resume": ("running", "Go on with a run that is not over."),
    "rerun": ("running", "Make a new run that takes over what an earlier one completed."),
    "plan": ("describing", "Show a chain's levels, critical path and picture without running it."),
    "validate": ("describing", "Say everything that is wrong with chain files."),
    "schema": ("describing", "Print the JSON Schema of chain files, for editors."),
    "ls": ("looking", "List runs, newest first."),
    "show": ("looking", "Show a run, or one step of it with its error."),
    "logs": ("looking", "Show what the steps of a run logged."),
    "artifacts": ("looking", "List the files that runs made."),
    "get": ("looking", "Write the files of a run out under human names."),
    "approvals": ("deciding", "List what waits for a person."),
    "approve": ("deciding", "Approve what waits at a gate."),
    "reject": ("deciding", "Reject what waits at a gate: stop, skip, or make it again."),
    "edit": ("deciding", "Replace a file by a new version."),
    "pause": ("steering", "Let a run start nothing more."),
    "cancel": ("steering", "End a run now."),
    "serve": ("serving", "Serve the pages and the HTTP API."),
    "keys": ("serving", "Make, list and revoke keys for the server."),
    "servers": ("farm", "Show the ComfyUI servers and how they are."),
    "workflows": ("farm", "List ComfyUI workflow files and what can be set in them."),
    "worker": ("temporal", "Execute steps of runs on Temporal."),
    "temporal": ("temporal", "A Temporal server for development: `towpath temporal dev`."),
    "fsck": ("steering", "Check the store: rows, versions, blobs."),
}


class _Verbs(click.Group):
    """Finds a verb's module only when the verb is used, so that `--help` stays fast."""

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


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="towpath", prog_name="towpath")
def towpath() -> None:
    """Run chains of steps and keep every file they make.

    Exit codes: 0 done, 1 the chain did not complete, 2 bad input, 3 paused for an approval,
    4 trouble with the store or the disk, 130 interrupted.
    """


def main() -> None:
    """The `towpath` command. Errors of ours end with a sentence and an exit code, never with a traceback.

    Where nobody reads what it writes it goes on, and its exit code says what came of it.
    """
    from . import outlet  # noqa: PLC0415 - the package is imported for its names too

    outlet.install()
    as_json = "--json" in sys.argv
    try:
        outcome: Any = towpath.main(standalone_mode=False)
        code = outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        said = io.StringIO()
        error.show(file=said)
        outlet.write(outlet.shown_lines(redacted(said.getvalue())), err=True)
        code = 2
    except click.Abort:
        code = INTERRUPTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TowpathError as error:
        tell(error, as_json)
        code = error.exit_code
    except Exception as error:  # a mistake of ours, told as Python does, without secrets
        outlet.write(outlet.shown_lines(redacted("".join(traceback.format_exception(error)))), err=True)
        code = 1
    if code == INTERRUPTED:
        outlet.last_words()
        os._exit(code)  # Python puts signals back to their defaults while it ends: a second Ctrl-C would kill it
    sys.exit(code)


def tell(error: TowpathError, as_json: bool) -> None:
    """An error as the command line tells it: for people on stderr, as JSON on stdout."""
    if as_json:
        from .screen import print_json  # noqa: PLC0415

        print_json({"errors": [p.as_json() for p in error.problems]})
    else:
        tell_problems(error.problems)


def tell_problems(problems: Sequence[Problem]) -> None:
    """Problems for people, on stderr: code, place, sentence, what was found, what is allowed, the cure."""
    from .outlet import shown_lines, write  # noqa: PLC0415
    from .screen import say  # noqa: PLC0415

    for (place, message), group in groupby(problems, lambda p: (p.place, p.message)):
        same = list(group)
        codes = ", ".join(dict.fromkeys(p.code for p in same))
        where = f" at {place}" if str(place) else ""
        first, _, rest = shown_lines(message).partition("\n")
        say(("error", "bold red"), f" {codes}{where}: {first}", err=True)
        for label, text in (("", rest), ("found", same[0].found), ("allowed", same[0].allowed), ("cure", same[0].cure)):
            if text:
                write(f"  {label}{': ' if label else ''}{shown_lines(text)}\n", err=True)
