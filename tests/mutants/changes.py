"""The small mistakes that are made in a source file on purpose, each one a change of a few characters.

What a mistake is: a comparison turned or moved by one, half of a condition or the whole guard gone, a statement
or a column not written, a condition of SQL forgotten, a number off by one, an order lost, a word misspelt. The
texts of messages, assertions, annotations, imports and docstrings stay as they are.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file. `name` says it in words and stays the same while lines move."""

    file: str
    name: str
    line: int
    start: int
    end: int
    new: str

    def rank(self, seed: int) -> bytes:
        """Its place in the line from which a sample is taken: an edit elsewhere in the file does not move it."""
        return blake2b(f"{seed} {self.file} {self.name}".encode(), digest_size=8).digest()

    def applied(self, source: bytes) -> bytes:
        """The file with the mistake in it."""
        return source[: self.start] + self.new.encode() + source[self.end :]


Edit = tuple[ast.AST, str, str]  # what is replaced, by what, and what is to be said of it if not just that
Text = Callable[[ast.AST], str]  # the source of a node
COMPARISONS = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
OTHER_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "popleft": "pop", "sorted": "list"}
SQL = re.compile(r"\b(SELECT|UPDATE|INSERT)\b|^[f]?\"\S+ (=|IN|<>) ")
SQL_CHANGES = (
    (
        re.compile(r"\bAND ([^\"{}]|\{\w+\})*?(?=\bAND\b|\bORDER\b|\)\s|\"|$)", re.MULTILINE),
        "",
    ),  # a condition forgotten
    (re.compile(r"<="), "<"),
    (re.compile(r"<>"), "="),
    (re.compile(r" ORDER BY [\w, ]+"), ""),
    (re.compile(r"coalesce\((\w+), (\?\d?)\)"), r"\2"),
    (re.compile(r", (\w+) = [^,\"()]+(?=,)"), ""),  # a column not written
)
WORD = re.compile(r"[A-Za-z_]+")


def mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of the source."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for place, kind, (node, new, said) in _edits(ast.parse(source), source):
        start = lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        old = source[start:end].decode()
        if old == new:
            continue
        name = f"{place}: {kind}: {said or f'{_short(old, new)} -> {_short(new, old)}'}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        found.append(Mutant(file, name, node.lineno, start, end, new))  # type: ignore[attr-defined]
    return found


def _short(text: str, other: str) -> str:
    """A text on one line; of a long one, what the other does not have."""
    text, other = " ".join(text.split()), " ".join(other.split())
    if max(len(text), len(other)) <= 60:
        return text
    left = next((n for n, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    right = 0
    while right < min(len(text), len(other)) - left and text[-1 - right] == other[-1 - right]:
        right += 1
    left, right = max(0, left - 12), max(0, right - 12)
    cut = text[left : len(text) - right]
    return ("…" if left else "") + cut[:70] + ("…" if right or len(cut) > 70 else "")


def _edits(tree: ast.Module, source: bytes) -> Iterator[tuple[str, str, Edit]]:
    def text(node: ast.AST) -> str:
        return ast.get_source_segment(source.decode(), node) or ""

    def walk(node: ast.AST, place: str) -> Iterator[tuple[str, str, Edit]]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{place}.{node.name}" if place else node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not place:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            place = text(target)
        for kind, rule in RULES.items():
            for edit in rule(node, text):
                yield place or "module", kind, edit
        for child in _children(node):
            yield from walk(child, place)

    yield from walk(tree, "")


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What of a node may be changed."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        if field == "slice" and isinstance(value, ast.Constant) and isinstance(value.value, str):
            continue  # a key that is not there is an error at once
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "b":
            continue  # and so is a name of a value
        for child in value if isinstance(value, list) else [value]:
            doc = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            slots = isinstance(child, ast.Assign) and isinstance(child.targets[0], ast.Name)
            slots = slots and child.targets[0].id == "__slots__"
            skipped = ast.Assert | ast.Import | ast.ImportFrom | ast.Raise | ast.JoinedStr
            if isinstance(child, ast.AST) and not doc and not slots and not isinstance(child, skipped):
                yield child


# ---- the kinds of mistakes


def _comparison(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = text(node.left), text(node.comparators[0])
        yield node, f"{left} {COMPARISONS[type(node.ops[0])]} {right}", ""


def _half(node: ast.AST, text: Text) -> Iterator[Edit]:
    """One side of `and` or `or` is forgotten."""
    if isinstance(node, ast.BoolOp):
        word = " and " if isinstance(node.op, ast.And) else " or "
        for left_out in node.values:
            kept = [f"({text(v)})" if isinstance(v, ast.BoolOp) else text(v) for v in node.values if v is not left_out]
            yield node, word.join(kept) if len(kept) == 1 else f"({word.join(kept)})", ""


def _connective(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        other = " or " if isinstance(node.op, ast.And) else " and "
        parts = [f"({text(v)})" if isinstance(v, ast.BoolOp | ast.IfExp) else text(v) for v in node.values]
        yield node, f"({other.join(parts)})", ""


def _guard(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A question is not asked: the answer is always yes, or always no."""
    if isinstance(node, ast.If | ast.IfExp):
        yield node.test, "True", ""
        yield node.test, "False", ""
    elif isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield test, "True", ""
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"bool({text(node.operand)})", ""


def _statement(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A statement is forgotten."""
    forgotten = isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    kept = isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)
    awaited = isinstance(node, ast.Expr) and isinstance(node.value, ast.Await)
    if forgotten or kept or awaited or isinstance(node, ast.Continue):
        yield node, "pass", ""
    if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, bool):
        yield node.value, str(not node.value.value), ""


def _sum(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        signs = ("+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
        yield node, text(node).replace(*signs, 1), ""
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield node, f"{text(node.left)} {'-' if isinstance(node.op, ast.Add) else '+'} {text(node.right)}", ""
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and text(node.right) != "None":
        yield node, text(node.left), ""


def _number(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node, str(node.value + 1), ""
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, str(not node.value), ""


def _call(node: ast.AST, text: Text) -> Iterator[Edit]:
    """Another function of the same kind, or a condition or a column that is left out of SQL."""
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in OTHER_CALLS:
        target = text(node.func)
        yield node.func, target[: len(target) - len(name)] + OTHER_CALLS[name], ""
    if name in ("where", "order_by") and node.args:
        bare = node.func.value if isinstance(node.func, ast.Attribute) else None
        for left_out in node.args:
            kept = [text(a) for a in node.args if a is not left_out]
            new = f"{text(node.func)}({', '.join(kept)})" if kept or not bare else text(bare)
            yield node, new, f"{name} without {text(left_out)}"
    if name == "values":
        for keyword in node.keywords:
            kept = [text(a) for a in node.args] + [text(k) for k in node.keywords if k is not keyword]
            yield node, f"{text(node.func)}({', '.join(kept)})", f"values without {keyword.arg}"


def _word(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and WORD.fullmatch(node.value):
        yield node, '"xx"', ""


def _sql(node: ast.AST, text: Text) -> Iterator[Edit]:
    parts = [v for _, v in ast.iter_fields(node)]
    for value in [x for part in parts for x in (part if isinstance(part, list) else [part])]:
        if not isinstance(value, ast.JoinedStr | ast.Constant):
            continue
        written = text(value)
        if not SQL.search(written):
            continue
        for pattern, new in SQL_CHANGES:
            for match in pattern.finditer(written):
                yield value, written[: match.start()] + match.expand(new) + written[match.end() :], ""


RULES = {
    "comparison": _comparison,
    "half forgotten": _half,
    "and, or": _connective,
    "guard": _guard,
    "statement forgotten": _statement,
    "sum": _sum,
    "number": _number,
    "call": _call,
    "word": _word,
    "sql": _sql,
}
