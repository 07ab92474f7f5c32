"""Verbs for chains, which run nothing: plan, validate, schema."""

from __future__ import annotations

import click

from towpath.chain_schema import schema
from towpath.errors import ChainInvalid, InputInvalid, TowpathError
from towpath.graph import mermaid

from . import print_problems
from .options import import_modules, import_option, json_option
from .runnables import load_runnable
from .screen import print_json, say, terminal
from .streams import shown_lines, write
from .tables import plan_json, print_plan


@click.command("plan")
@click.argument("file")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print a Mermaid diagram instead.")
@import_option
@json_option
def plan_verb(file: str, as_mermaid: bool, modules: tuple[str, ...], as_json: bool) -> int:
    """Show the levels and the critical path of a chain: a YAML or Python FILE, or module:chain."""
    import_modules(modules)
    plan = load_runnable(file).plan
    if as_json:
        print_json({**plan_json(plan), "mermaid": mermaid(plan)})
    elif as_mermaid:
        write(shown_lines(mermaid(plan)))
    else:
        print_plan(terminal(), plan)
    return 0


@click.command("validate")
@click.argument("files", nargs=-1, required=True)
@click.option("--no-import", is_flag=True, help="Do not import step functions.")
@json_option
def validate_verb(files: tuple[str, ...], no_import: bool, as_json: bool) -> int:
    """Check chains, as `towpath run` names them, and list all their errors."""
    found: list[TowpathError] = []
    good: list[str] = []
    for file in files:
        try:
            chain = load_runnable(file, imports=not no_import)
            good.append(f"{file}: {chain.plan.name}, {len(chain.plan.steps)} steps in {len(chain.plan.levels)} levels")
        except (ChainInvalid, InputInvalid) as error:
            found.append(error)
    if as_json:
        print_json({"valid": not found, "errors": [p.as_json() for e in found for p in e.problems]})
        return 2 if found else 0
    for text in good:
        say(("ok ", "green"), text)
    for invalid in found:
        print_problems(invalid.problems)
    return 2 if found else 0


@click.command("schema")
def schema_verb() -> int:
    """Print the JSON Schema of chain files, for editors."""
    print_json(schema())
    return 0
