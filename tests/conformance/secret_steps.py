"""Steps and chains with secrets, which a worker can import."""

from __future__ import annotations

from typing import Any, Optional

from towpath import Secret, chain, context, step


@step
async def login(key: Secret[str]) -> Secret[str]:
    """Gets the secret as such, tells of it everywhere, and returns another one."""
    context().logger.info("logging in with %s as %r and %s", key.reveal(), key, f"{key}")
    return Secret(f"session-{key.reveal()}")


@step
async def ask(token: str, more: Any = None) -> dict[str, Any]:
    """Gets the plain value, since it does not ask for a secret."""
    context().logger.info("asking with %s", token)
    return {"length": len(token), "more": len(str(more)), "kind": type(token).__name__}


@step(secret=True)
async def account(key: str) -> dict[str, Any]:
    """A value of several parts, all of them secret."""
    return {"user": f"user-of-{key}", "tokens": [f"first-{key}", f"second-{key}"], "pin": 123456789}


@step
async def parts(key: str) -> dict[str, Any]:
    """A value of which only a part is secret."""
    return {"name": "bob", "token": Secret(f"part-{key}"), "more": [Secret({"deep": f"deep-{key}"})]}


@step
async def several(key: str) -> list[Any]:
    """A list of secrets, to be mapped over."""
    return [Secret(f"{number}-{key}") for number in range(3)]


@step
async def per_item(token: str) -> Secret[str]:
    """One item's secret."""
    return Secret(f"item-{token}")


@step
async def lengths(tokens: list[str]) -> list[int]:
    """What came of all items."""
    return [len(token) for token in tokens]


@step
async def maybe(key: Optional[Secret[str]] = None) -> str:  # noqa: UP045 - the old way of writing it
    """A secret that may be missing."""
    return "none" if key is None else type(key).__name__


@step
async def boom(token: str) -> None:
    """Fails, and tells what it was given."""
    try:
        raise KeyError(token)
    except KeyError as error:
        raise ValueError(f"GET https://h/?token={token} failed: {token!r}") from error


@step(requires_approval=True)
async def reviewed(name: str) -> str:
    """Waits for a person."""
    return name


@step
async def with_file() -> Secret[Any]:
    """A file cannot be secret."""
    return Secret({"file": b"bytes"})


@chain
def session(key: Secret[str]):
    """Takes one secret and returns another one."""
    return ask(login(key), more=key)


@chain
def inner(token: str):
    """Its input does not say that it is secret; what it is given is."""
    return per_item(token)


@chain
def all_kinds(key: Secret[str]):
    """Secrets in all places that a value can be in."""
    known = account(key)
    held = parts(key)
    items = several(key)
    each = per_item.map(items)
    return {
        "part of a secret": ask(known["tokens"][1]).named("of_part"),
        "number": ask("x", more=known["pin"]).named("of_number"),
        "secret in a value": ask(held["token"], more=held["more"]).named("of_held"),
        "items": lengths(each),
        "inner": ask(inner(key).named("in_chain")).named("of_inner"),
        "optional": maybe(key),
    }


@chain
def failing(key: Secret[str]):
    """Ends with an error that tells everything."""
    return boom(login(key))


@chain
def waiting(key: Secret[str]):
    """Somebody looks before the secret is used."""
    return ask(login(key).after(reviewed("bob")))


@chain
def looking(key: Secret[str]):
    """A condition on a secret."""
    return ask("x").when("{{ inputs.key == 'a' }}")


@chain
def looking_at_value(key: Secret[str]):
    """A condition on a part of a secret value."""
    known = account(key)
    return ask("x").after(known).when("{{ account.output.user == 'a' }}")


@chain
def mapping(key: Secret[str]):
    """A fan-out over a secret."""
    return ask.map(account(key)["tokens"])


@chain
def filing():
    """A secret with a file in it."""
    return with_file()


@step(requires_approval=True)
async def offered(found: Any) -> Any:
    """Waits for a person, who may replace what it returns."""
    return found


@step(requires_approval=True)
async def offered_secret(found: Any) -> Secret[Any]:
    """Waits for a person; what it returns is secret, if there is anything."""
    return found  # type: ignore[no-any-return]


@step(requires_approval=True)
async def offered_part(key: str) -> dict[str, Any]:
    """Waits for a person; a part of what it returns is secret."""
    return {"name": "bob", "token": Secret(key)}


@step
async def told(found: Any) -> dict[str, Any]:
    """What it is given, in the open."""
    return {"got": str(found)}


@step
async def measured(found: Any) -> dict[str, Any]:
    """What it is given, turned round, so that nothing hides it."""
    return {"got": str(found)[::-1]}


@chain
def offering(found: Any):
    """A plain value at a gate."""
    return measured(offered(found))


@chain
def offering_secret(found: Any):
    """A secret value at a gate."""
    return measured(offered_secret(found))


@chain
def offering_part(key: Secret[str]):
    """A value with a secret in it at a gate."""
    return measured(offered_part(key))


@chain
def with_number(key: Secret[int]):
    """A secret that is no text."""
    return ask("x", more=key)


@chain
def with_fraction(key: Secret[float]):
    """A secret that is no text."""
    return ask("x", more=key)


@chain
def with_flag(key: Secret[bool]):
    """A secret that is no text."""
    return ask("x", more=key)


@chain
def with_list(key: Secret[list[str]]):
    """A secret that is no text."""
    return ask("x", more=key)


@chain
def with_mapping(key: Secret[dict[str, int]]):
    """A secret that is no text."""
    return ask("x", more=key)


@step
async def signed(key: Secret[str], **more: Secret[str]) -> list[str]:
    """Takes secrets by name, and under any other name."""
    return [key.reveal()[::-1], *(one.reveal()[::-1] for one in more.values())]


@chain
def inner_secret(key: Secret[str]):
    """An inner chain whose input is secret."""
    return signed(key)


@chain
def undeclared(text: str):
    """A plain input goes to parameters that take secrets."""
    return {
        "input": signed(text).named("of_input"),
        "named": signed(text, other=text).named("of_names"),
        "items": signed.map([text, text]).named("of_items"),
        "inner": inner_secret(text).named("of_inner"),
        "optional": maybe(text),
    }


@step(requires_approval=True)
async def offered_taken(key: Secret[str]) -> int:
    """Waits for a person, and takes a secret."""
    return len(key.reveal())


@chain
def offering_taken(key: str):
    """A step that takes a secret, at a gate."""
    return offered_taken(key)
