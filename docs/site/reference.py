"""The pages of the site that are made of the code, so that they cannot say anything else than the code does."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import yaml

import towpath
from towpath.adapters import cli, settings, wiring
from towpath.adapters.comfyui import configuration, servers
from towpath.adapters.http import settings as http
from towpath.chain_schema import schema
from towpath.model import ApprovalPolicy, RetryPolicy

HERE = Path(__file__).parent
ASSETS = {
    "assets/mark.svg": HERE.parents[1] / "adapters/http/pages/static/mark.svg",
    "assets/towpath.css": HERE / "towpath.css",
    "assets/towpath.js": HERE / "towpath.js",
}
Schema = dict[str, Any]


# ---- chain files

TABLES = (  # title, definition, where its examples are in every_key.yaml
    ("The chain", None, "chain"),
    ("An input", "input", "inputs"),
    ("A step", "step", "steps"),
    ("approval", "approval", "approval"),
    ("retry", "retry", "retry"),
)
SAID = {  # defaults that no class of the code has
    ("input", "type"): "`file` if there is a `source`, else `json`",
    ("chain", "concurrency"): "no limit but that of the engine",
    ("step", "on_item_failure"): "`fail`",
    ("step", "requires_approval"): "`false`",
    ("step", "process"): "`false`",
    ("step", "secret"): "`false`",
    ("step", "cheap"): "`false`",
    ("step", "cache"): "`false`",
    ("step", "retries"): "`0`",
    ("input", "secret"): "`false`",
    ("approval", "timeout_hours"): "no limit",
    ("step", "timeout"): "no limit",
    ("step", "total_timeout"): "no limit",
    ("step", "limit"): "none",
    ("step", "concurrency"): "no limit",
    ("step", "retry_on"): "every exception",
    ("step", "server"): "any server",
    ("step", "requires"): "any server",
}
UNITS = {"delay": "s", "max_delay": "s"}


def yaml_page() -> str:
    """Every key of a chain file: type, default, what is allowed, what it means, an example."""
    text = [
        "# Chain files",
        "A chain file is YAML. This page lists every key, and is made of the JSON Schema that checks the files.",
        "`towpath schema > chain.schema.json` writes it for your editor, `towpath validate FILE` checks a file.",
        "[Chains](../chains.md) shows how they are used, [Expressions](../expressions.md) what stands in `{{ … }}`.",
    ]
    for title, name, kind in TABLES:
        part = definition(name)
        text += [f"## {title}", part["description"]]
        for key, spec in part["properties"].items():
            text += list(_key(name or "chain", kind, key, spec, key in part.get("required", ())))
    whole = (HERE / "every_key.yaml").read_text(encoding="utf-8").partition("\n")[2]
    text += ["## A chain with every key", f"```yaml\n{whole}```"]
    return "\n\n".join(text) + "\n"


def definition(name: str | None) -> Schema:
    """A definition of the schema, or the schema of a whole file."""
    found: Schema = schema() if name is None else schema()["definitions"][name]
    return found


def _key(owner: str, kind: str, key: str, spec: Schema, required: bool) -> Iterator[str]:
    anchor = key if owner in ("chain", "step") and (owner == "step" or key != "concurrency") else f"{owner}-{key}"
    yield f"### `{key}` {{ #{anchor} }}"
    yield resolved(spec).get("description", "") if "$ref" in spec else spec.get("description", "")
    facts = [f"type: {type_of(spec)}"]
    facts += ["required"] if required else [f"default: {default}" for default in _default(owner, key)]
    facts += [f"allowed: {allowed}" for allowed in _allowed(spec)]
    yield "\n".join(f"- {fact}" for fact in facts)
    yield f"```yaml\n{example(kind, key)}```"


def resolved(spec: Schema) -> Schema:
    """The schema behind a reference, also one in `allOf`."""
    for part in (spec, *spec.get("allOf", ())):
        if "$ref" in part:
            return definition(part["$ref"].rpartition("/")[2])
    return spec


def type_of(spec: Schema) -> str:
    """The type of a value, in words."""
    whole = resolved(spec)
    if whole.get("title") in ("Duration", "Wait"):
        return f"duration: {whole['description']}"
    kinds = whole.get("type", "string" if "enum" in whole else "any value")
    words = {"object": "mapping", "array": "list", "string": "text", "number": "number", "integer": "whole number"}
    return " or ".join(words.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _allowed(spec: Schema) -> Iterator[str]:
    whole = resolved(spec)
    if "enum" in whole:
        yield " ".join(f"`{value}`" for value in whole["enum"])
    if whole.get("title") not in ("Duration", "Wait") and ("minimum" in whole or "maximum" in whole):
        yield f"{whole.get('minimum', 0)} to {whole.get('maximum', '∞')}"
    if "exclusiveMinimum" in whole and whole.get("title") != "Duration":
        yield f"more than {whole['exclusiveMinimum']}"
    if whole.get("properties") and "$ref" not in spec:
        yield "the keys " + " ".join(f"`{key}`" for key in whole["properties"])
    if "$ref" in spec:
        title = next(t for t, name, _ in TABLES if name == spec["$ref"].rpartition("/")[2])
        yield f"the keys of [{title}](#{title.lower().replace(' ', '-')})"


def _default(owner: str, key: str) -> Iterator[str]:
    policies = {"retry": RetryPolicy, "approval": ApprovalPolicy}
    if (owner, key) in SAID:
        yield SAID[owner, key]
    elif owner in policies:
        found = {f.name: f.default for f in fields(policies[owner])}
        if found.get(key, MISSING) not in (MISSING, None):
            value = found[key]
            yield f"`{str(value).lower() if isinstance(value, bool) else value}`{' seconds' if key in UNITS else ''}"


@lru_cache
def every_key() -> dict[str, Any]:
    """The chain that uses every key."""
    found: dict[str, Any] = yaml.safe_load((HERE / "every_key.yaml").read_text(encoding="utf-8"))
    return found


def example(kind: str, key: str) -> str:
    """How a key is written, from the chain with every key."""
    chain = every_key()
    places = {
        "chain": [chain],
        "inputs": list(chain["inputs"].values()),
        "steps": chain["steps"],
        "approval": [step["approval"] for step in chain["steps"] if "approval" in step],
        "retry": [step["retry"] for step in chain["steps"] if "retry" in step],
    }
    value = next(place[key] for place in places[kind] if key in place)
    if kind == "chain" and key in ("steps", "inputs"):
        value = value[:1] if key == "steps" else dict(list(value.items())[:2])
    return yaml.safe_dump({key: value}, sort_keys=False, width=100, allow_unicode=True)


# ---- Python

GROUPS = (
    ("Describe", "step chain load_chain Step Chain RetryPolicy codec"),
    ("Run", "open_engine run Engine RunHandle Run ChainStatus StepStatus"),
    ("Inside a step", "context StepContext Artifact File Secret"),
)

MEMBERS = {  # what a user calls; the rest is for towpath itself
    "Step": "map with_options",
    "Chain": "plan compile",
    "StepContext": "idempotency_key logger work_folder cancelled check progress save",
}


def python_page() -> str:
    """All of `towpath.__all__`, from the docstrings."""
    text = [
        "# Python",
        "Everything that `import towpath` gives, from the docstrings. [Error codes](../errors.md) explains the codes.",
    ]
    left = [name for name in towpath.__all__ if not inspect.ismodule(getattr(towpath, name))]
    for title, names in GROUPS:
        mine = [name for name in names.split() if name in left]
        left = [name for name in left if name not in mine]
        text += [f"## {title}", *map(_directive, mine)]
    errors = [name for name in left if _is_error(name)]
    others = [name for name in left if name not in errors]
    text += ["## More", *map(_directive, others)] if others else []
    tree = inspect.getdoc(towpath.errors if hasattr(towpath, "errors") else inspect.getmodule(towpath.TowpathError))
    text += ["## Errors", f"```text\n{_tree(tree or '')}\n```"]
    text += [f"::: towpath.{name}\n    options: {{ inherited_members: false }}" for name in sorted(errors)]
    return "\n\n".join(text) + "\n"


def _directive(name: str) -> str:
    if find_spec(f"towpath.{name}") is not None:  # a module has the name too, and would be described in its place
        found = getattr(towpath, name)
        there = f"{found.__module__}.{found.__qualname__}"
        return f"::: {there}\n    options: {{ heading: towpath.{name}, toc_label: {name} }}"
    members = f"\n    options: {{ members: [{', '.join(MEMBERS[name].split())}] }}" if name in MEMBERS else ""
    return f"::: towpath.{name}{members}"


def _is_error(name: str) -> bool:
    found = getattr(towpath, name)
    return isinstance(found, type) and issubclass(found, BaseException)


def _tree(text: str) -> str:
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if "TowpathError" in line)
    last = max(i for i, line in enumerate(lines) if "──" in line)
    return inspect.cleandoc("\n" + "\n".join(lines[first : last + 1]))


# ---- the command line

WIDTH = 80  # what fits beside both menus


def cli_page() -> str:
    """Each verb, with its own help."""
    text = [
        "# Command line",
        "What `towpath VERB --help` says. [The command line](../command-line.md) says what you can rely on.",
        f"```text\n{_help(cli.towpath, 'towpath')}\n```",
    ]
    for path, command in _commands(cli.towpath, "towpath"):
        text += [f"## {path}", f"```text\n{_help(command, path)}\n```"]
    return "\n\n".join(text) + "\n"


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")


def _help(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=WIDTH, terminal_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return command.get_help(context).rstrip()


# ---- towpath.toml

EXAMPLES = {
    "store": 'store = "sqlite:///runs.db"',
    "blobs": 'blobs = "/data/towpath-files"',
    "adapter": 'adapter = "temporal://127.0.0.1:7233/default"',
    "durability": 'durability = "normal"',
    "concurrency": "concurrency = 16",
    "limits": "limits = { gpu = 2, api = 10 }",
    "workflows": 'workflows = "comfyui"',
    "servers": '[[servers]]\nname = "gpu-1"\nurl = "https://gpu.example"',
    "comfyui": '[comfyui]\nstrategy = "round_robin"',
    "server": '[server]\nchains = "chains"',
}
SERVER_KEYS = {
    "name": "what steps and lists call it",
    "url": "its address; it may have a path",
    "tags": "what `requires: { tags: […] }` asks for",
    "headers": "sent with every request; `${NAME}` is taken from the environment",
    "query": "sent in every address, for servers that take a token there",
    "slots": "how many prompts of one process it gets at a time",
    "verify": "`false`, or the file of your own CA",
    "description": "words for people",
}


ORDER = "An argument of `open_engine` or an option of the command line is stronger, then an environment variable."


def settings_page() -> str:
    """Each key of `towpath.toml`, its environment variable, and its meaning."""
    about = _arguments(wiring.open_engine)
    text = [
        "# towpath.toml",
        "Settings of a project. The file lies in the folder in which you start the program.",
        f"{ORDER} A key that does not exist is an error: `E_SETTING`.",
        "```toml\n" + "\n".join(EXAMPLES[key] for key in ("store", "durability", "limits")) + "\n```",
        "## Keys",
    ]
    for key, kind in settings._KEYS.items():
        text += [f"### `{key}`", _sentence(about.get(key, TABLE_OF.get(key, ""))), _facts(key, kind)]
        text += [f"```toml\n{EXAMPLES[key]}\n```"] if key in EXAMPLES else []
    text += ["## [[servers]]", "The ComfyUI servers: [ComfyUI](../comfyui.md).", _table(_server_keys())]
    text += ["## [comfyui]", "How ComfyUI steps are sent and fetched.", _table(_comfyui_keys())]
    text += ["## [server]", "`towpath serve`: [Server and pages](../server.md).", _table(_http_keys())]
    return "\n\n".join(text) + "\n"


TABLE_OF = {
    "comfyui": "How ComfyUI steps are sent and fetched; see [\\[comfyui\\]](#comfyui_1).",
    "server": "Settings of `towpath serve`; see [\\[server\\]](#server_1).",
}
VARIABLES = {
    "store": "TOWPATH_STORE, DATABASE_URL",
    "blobs": "TOWPATH_BLOBS",
    "adapter": "TOWPATH_ADAPTER",
    "workflows": "TOWPATH_WORKFLOWS",
}


def _facts(key: str, kind: type) -> str:
    facts = [f"type: {settings._WORDS[kind]}"]
    facts += (
        [f"environment: {' '.join(f'`{name}`' for name in VARIABLES[key].split(', '))}"] if key in VARIABLES else []
    )
    return "\n".join(f"- {fact}" for fact in facts)


def _arguments(function: Callable[..., Any]) -> dict[str, str]:
    """The sentences of `Args:` in a docstring, by name."""
    block = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in inspect.cleandoc("\n" + block).splitlines():
        started = re.match(r"(\w+): (.*)", line)
        if started:
            name, found[started[1]] = started[1], started[2]
        else:
            found[name] += " " + line.strip()
    # `HttpSettings` names two on one line
    for text in list(found.values()):
        found |= {m[1]: m[2] for m in re.finditer(r"(?:^|\. )(\w+_\w+): ([^.]*\.)", text)}
    return found


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [f"| `{key}` | {default} | {about} |" for key, default, about in rows]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines])


def _server_keys() -> Iterator[tuple[str, str, str]]:
    for key in servers.KEYS:
        yield key, {"slots": "1", "verify": "`true`"}.get(key, ""), SERVER_KEYS[key]


def _comfyui_keys() -> Iterator[tuple[str, str, str]]:
    known = {f.name: f.default for kind in (configuration.Timeouts, configuration.Limits) for f in fields(kind)}
    known |= {"strategy": "least_loaded", "partial_outputs": False, "check": True}
    known |= {"max_file": configuration.MAX_FILE, "download_timeout": configuration.DOWNLOAD_SECONDS}
    for key, (_, about) in configuration.KEYS.items():
        yield key, f"`{json.dumps(known[key])}`" if known.get(key, MISSING) is not MISSING else "", about


def _http_keys() -> Iterator[tuple[str, str, str]]:
    about = _arguments(http.HttpSettings)
    known = {f.name: f.default for f in fields(http.HttpSettings)}
    about |= {"webhooks": "receivers of events: tables with `url`, `secret` and `events`"}
    for key in http._KEYS:
        plain = known[key] is not None and known[key] not in ((), "")
        yield key, f"`{json.dumps(known[key])}`" if plain else "", about[key].rstrip(".")


os.environ.setdefault("NO_COLOR", "1")
PAGES: dict[str, Callable[[], str]] = {
    "reference/yaml.md": yaml_page,
    "reference/python.md": python_page,
    "reference/cli.md": cli_page,
    "reference/settings.md": settings_page,
}
