"""Ids that pages, JSON clients, Python or JavaScript would take for something else are refused."""

from __future__ import annotations

import pytest

from towpath import ChainInvalid, chain, step
from towpath.chain_file import load_chain_from_dict

OF_EVERY_OBJECT = [
    "__init__",  # a method of every Python object
    "__class__",  # the way out of a template's sandbox
    "__dict__",
    "__proto__",  # sets the prototype of a JavaScript object
    "__defineGetter__",  # a method of every JavaScript object
    "____",  # nothing but underscores is a dunder name too
    "constructor",
    "prototype",
    "toString",  # called when an object is shown
    "valueOf",  # called when an object is compared
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
]
FINE = ["init", "_init", "__init", "init__", "proto", "construct", "to_string", "Constructor", "value_of", "class", "_"]


@step
async def one() -> int:
    return 1


@pytest.mark.parametrize("name", OF_EVERY_OBJECT)
def test_a_name_of_every_object_is_no_id(name: str) -> None:
    """In YAML and in Python, with a way out."""

    @chain
    def made():
        return one().named(name)

    with pytest.raises(ChainInvalid) as of_python:
        _ = made.plan
    with pytest.raises(ChainInvalid) as of_yaml:
        load_chain_from_dict({"name": "c", "steps": [{"id": name, "python": f"{__name__}:one"}]})
    for caught, cure in ((of_python, "named"), (of_yaml, "another id")):
        (problem,) = caught.value.problems
        assert problem.code == "E_STEP_ID"
        assert name in f"{problem.message} {problem.found}"
        assert cure in problem.cure


@pytest.mark.parametrize("name", FINE)
def test_names_that_only_look_like_them_are_ids(name: str) -> None:
    """What is refused is the name itself, not what is like it."""

    @chain
    def made():
        return one().named(name)

    assert made.plan.steps[0].id == name
    assert load_chain_from_dict({"name": "c", "steps": [{"id": name, "python": f"{__name__}:one"}]}).plan.steps
