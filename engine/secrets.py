"""Secret values: shown nowhere, and stored encrypted or as the name of an environment variable.

    {"$secret": {"env": "NAME"}}       the value of an environment variable, looked up where it is needed
    {"$secret": {"sealed": "gAAA…"}}   encrypted with the store's key
    {"$secret": {}}                    a recorded argument that contained a secret; nothing of it is stored

The key is `TOWPATH_SECRET_KEY` (several, separated by commas: the first one encrypts), else the file
`secrets.key` beside the store, which is made on first use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from .errors import FeatureMissing, Place, Problem, SecretMissing, StoreFailed
from .model import InputSpec, Json
from .redaction import HIDDEN, SHORTEST, is_plain_word, remember, secrets_of_environment

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

T = TypeVar("T")

MARK = "$secret"
NOT_KEPT: Json = {MARK: {}}
KEY_VARIABLE = "TOWPATH_SECRET_KEY"
KEY_FILE = "secrets.key"
SURE_LENGTH = 8  # characters; a shorter text also occurs where it is no secret
_NOT_YET: Any = object()


class Secret(Generic[T]):
    """A value that is always shown as `***`; `reveal()` returns the value.

    `Secret(value)` is stored encrypted. `Secret.env(name)` is the value of an environment variable: only the name is
    stored, and each process that needs the value reads the variable.
    """

    __slots__ = ("_folder", "_value", "mark")

    def __init__(self, value: T) -> None:
        self._value: T = value
        self._folder: Path | None = None
        self.mark: Json = None  # how it is stored; None if it is not stored yet
        _remember(value)

    @classmethod
    def env(cls, name: str) -> Secret[str]:
        """The value of an environment variable, wherever it is needed."""
        return Secret.kept({MARK: {"env": name}})

    @classmethod
    def kept(cls, mark: Json, folder: Path | None = None) -> Secret[Any]:
        """A secret from a store; `folder` is where the store's key is."""
        secret: Secret[Any] = Secret(_NOT_YET)
        secret.mark, secret._folder = mark, folder
        return secret

    def reveal(self) -> T:
        """The value itself.

        Raises:
            SecretMissing: E_SECRET_MISSING without the variable, E_SECRET_KEY without the right key.
            FeatureMissing: E_FEATURE_MISSING without the extra `secrets`.
        """
        if self._value is not _NOT_YET:
            return self._value
        how = self.mark[MARK]
        if "env" in how:
            value: Any = _of_environment(how["env"])  # read each time: the variable may change
        else:
            value = self._value = _unsealed(how, self._folder)
        _remember(value)
        return value  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, memo: object) -> Secret[T]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled: pass Secret.env(name), or its plain value")


def _remember(value: object) -> None:
    """Tell the redaction the texts in a secret value, except those that may occur without the secret.

    The person who starts a run chooses its secrets: a common word as a secret would remove that word from all texts.
    """
    todo, seen = [value], dict[int, object]()  # a value may contain itself, or one thing very many times
    while todo:
        one = todo.pop()
        if isinstance(one, int | float) and not isinstance(one, bool):
            one = str(one)
        if isinstance(one, str):
            if len(one) >= SURE_LENGTH and not is_plain_word(one):
                remember(one)
        elif isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen[id(one)] = one
            todo += one.values() if isinstance(one, Mapping) else one


def of_plain(value: object) -> Secret[Any]:
    """A secret from a plain value. If a variable with a secret's name has this value now, it is a reference to it."""
    if isinstance(value, str) and len(value) >= SHORTEST:
        for name, held in secrets_of_environment().items():
            if held == value and name != KEY_VARIABLE:
                return Secret.env(name)
    return Secret(value)


# ---- secrets among other values


def revealed(value: Any, seen: list[Secret[Any]] | None = None) -> Any:
    """The value with secrets replaced by their plain values; `seen` collects the secrets."""
    if isinstance(value, Secret):
        if seen is not None:
            seen.append(value)
        return value.reveal()
    if isinstance(value, dict):
        return {key: revealed(inner, seen) for key, inner in value.items()}
    return [revealed(inner, seen) for inner in value] if isinstance(value, list) else value


def without(data: Json, secrets: list[Any]) -> Json:
    """Data with `***` in place of everything that equals one of these values."""
    if not secrets:
        return data
    if data in secrets:
        return HIDDEN
    if isinstance(data, dict):
        return {key: without(inner, secrets) for key, inner in data.items()}
    return [without(inner, secrets) for inner in data] if isinstance(data, list) else data


def holds_secret(value: Any) -> bool:
    """Is there a secret anywhere in this value?"""
    if isinstance(value, dict):
        return any(map(holds_secret, value.values()))
    return any(map(holds_secret, value)) if isinstance(value, list) else isinstance(value, Secret)


def opened(arguments: Mapping[str, Any], as_secrets: frozenset[str]) -> dict[str, Any]:
    """Arguments as a function gets them: a `Secret` where it asks for one, and plain values elsewhere.

    Raises as `Secret.reveal`, for all of them.
    """
    plain = {name: revealed(value) for name, value in arguments.items()}
    return {name: _asked(arguments[name], value) if name in as_secrets else value for name, value in plain.items()}


def _asked(given: Any, plain: Any) -> Any:
    return given if plain is None or isinstance(given, Secret) else Secret(plain)


def marks_in(value: Json) -> Iterator[Json]:
    """The marks of secrets in stored data."""
    if isinstance(value, dict):
        if MARK in value:
            yield value
        else:
            for inner in value.values():
                yield from marks_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from marks_in(inner)


# ---- annotations


def secret_type(annotation: Any) -> tuple[bool, Any]:
    """Is an annotation a secret (`Secret[str]`, also `| None`)? Also returns the type inside, or the annotation."""
    if isinstance(annotation, str):
        found = _WRITTEN.fullmatch(annotation)
        return (False, annotation) if found is None else (True, found["inner"] or Any)
    origin = get_origin(annotation)
    if annotation is Secret or origin is Secret:
        return True, next(iter(get_args(annotation)), Any)
    if origin in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            if secret_type(part)[0]:
                return secret_type(part)
    return False, annotation


_WRITTEN = re.compile(r"\s*(?:Optional\[)?(?:\w+\.)*Secret(?:\[(?P<inner>\w+)[^\]]*\]?)?\]*\s*(?:\|\s*None)?\s*")


def holds_secret_type(annotation: Any) -> bool:
    """Does an annotation mean data with secrets inside (`list[Secret[str]]`)? Such arguments are not supported."""
    if secret_type(annotation)[0]:
        return False
    if isinstance(annotation, str):
        return _INSIDE.search(annotation) is not None
    return any(secret_type(part)[0] or holds_secret_type(part) for part in get_args(annotation))


_INSIDE = re.compile(r"\[.*\bSecret\b")


def check_annotations(function: Callable[..., Any], place: Place) -> list[Problem]:
    """The problems of a function's annotations with `Secret`."""
    wrong = [name for name, hint in _hints(function).items() if name != "return" and holds_secret_type(hint)]
    return [
        Problem(
            "E_SECRET_INPUT",
            f"{name} is annotated as data with secrets inside",
            replace(place, field=name),
            allowed="Secret[…] around the whole: Secret[list[str]], Secret[dict[str, str]]",
        )
        for name in wrong
    ]


def secret_names(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a function that take a secret, and `return` if it returns one."""
    return frozenset(name for name, hint in _hints(function).items() if secret_type(hint)[0])


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # a name that is imported only for type checkers
        return dict(getattr(function, "__annotations__", {}))


def secret_problems(spec: InputSpec, place: Place, *, references: bool) -> list[Problem]:
    """The problems of a secret input: it cannot be a file, and its value cannot be in the chain.

    With `references` the default may name a variable. In text from strangers it must not.
    """
    if spec.type == "file" or spec.source:
        return [Problem("E_SECRET_INPUT", "a file cannot be a secret input", place, allowed="text or other data")]
    if spec.default is None or (references and isinstance(spec.default, dict) and MARK in spec.default):
        return []
    cure = "give it to each run, or in Python: Secret.env(NAME) as the default"
    return [Problem("E_SECRET_INPUT", "the default of a secret is written in the chain", place, cure=cure)]


# ---- keeping


def sealed(value: Json, folder: Path) -> Json:
    """The value encrypted, for the store. Raises as `Secret.reveal`, StoreFailed (E_SECRET_KEY) for the key's file."""
    encoded = msgspec.json.encode(value)
    return {"sealed": _cipher(folder, os.environ.get(KEY_VARIABLE, "")).encrypt(encoded).decode()}


def check_kept(values: Json, folder: Path) -> None:
    """Check that this process can read every secret in stored data. Raises as `Secret.reveal`."""
    for mark in marks_in(values):
        Secret.kept(mark, folder).reveal()


def _of_environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise SecretMissing(
            "E_SECRET_MISSING",
            f"the environment variable {name}, which holds a secret of the run, is not set here",
            cure=f"set {name} and resume the run",
        )
    return value


def _unsealed(how: Mapping[str, Any], folder: Path | None) -> Json:
    if "sealed" not in how:
        raise SecretMissing("E_SECRET_MISSING", "a recorded argument does not hold its secret", cure="use the input")
    given = os.environ.get(KEY_VARIABLE, "")
    if folder is None or not (given or (folder / KEY_FILE).exists()):
        raise _wrong_key(f"there is no key here: neither {KEY_VARIABLE} nor {KEY_FILE} beside the store")
    from cryptography.fernet import InvalidToken  # noqa: PLC0415

    try:
        return msgspec.json.decode(_cipher(folder, given).decrypt(how["sealed"].encode()))
    except InvalidToken:
        raise _wrong_key("a secret of the run was encrypted with another key") from None


@cache
def _cipher(folder: Path, given: str) -> MultiFernet:
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - most chains have no secrets
    except ImportError as error:
        cure = 'pip install "towpath[secrets]", or give secrets as references to environment variables'
        raise FeatureMissing("E_FEATURE_MISSING", "encrypting secrets needs more packages", cure=cure) from error
    keys = given.split(",") if given else [_key_of(folder)]
    try:
        return MultiFernet([Fernet(key.strip()) for key in keys])
    except ValueError:
        cure = f"{KEY_VARIABLE} holds 32 bytes in URL-safe base64; several keys are separated by commas"
        raise StoreFailed("E_SECRET_KEY", "the key for secrets is not valid", cure=cure) from None


def _key_of(folder: Path) -> str:
    """The key beside the store, readable by its owner only; made on first use, whole or not at all."""
    from cryptography.fernet import Fernet  # noqa: PLC0415

    path = folder / KEY_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temp = folder / f".{KEY_FILE}-{os.urandom(8).hex()}"
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(Fernet.generate_key())
                file.flush()
                os.fsync(file.fileno())  # if the key is lost, all secrets encrypted with it are lost
            try:
                os.link(temp, path)  # of two processes, the first one wins
            except FileExistsError:
                pass
            finally:
                temp.unlink()
        if path.stat().st_mode & 0o077:
            raise StoreFailed("E_SECRET_KEY", f"others may read {KEY_FILE}", cure=f"chmod 600 {KEY_FILE}")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreFailed("E_SECRET_KEY", f"{KEY_FILE} cannot be made or read beside the store") from error


def _wrong_key(why: str) -> SecretMissing:
    return SecretMissing("E_SECRET_KEY", why, cure=f"set {KEY_VARIABLE} to the key that the run was started with")
