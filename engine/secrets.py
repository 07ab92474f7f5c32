"""Secret values: shown nowhere, and kept as where they come from, or encrypted.

{"$secret": {"env": "NAME"}}       the value of an environment variable, looked up where it is needed
{"$secret": {"sealed": "gAAA…"}}   encrypted with the store's key
{"$secret": {}}                    a recorded argument that was made of a secret; nothing of it is kept

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
SURE_LENGTH = 8  # characters; a shorter text is found in what has nothing to do with the secret
_NOT_YET: Any = object()


class Secret(Generic[T]):
    """A value that is shown as `***` wherever it is shown; `reveal()` gives it.

    `Secret(value)` is kept encrypted. `Secret.env(name)` is the value of an environment variable: it is kept as
    that name, and looked up by the process that needs it.
    """

    __slots__ = ("_folder", "_value", "mark")

    def __init__(self, value: T) -> None:
        self._value: T = value
        self._folder: Path | None = None
        self.mark: Json = None  # how it is kept, if that is settled
        _remember(value)

    @classmethod
    def env(cls, name: str) -> Secret[str]:
        """The value of an environment variable, wherever it is needed."""
        return Secret.kept({MARK: {"env": name}})

    @classmethod
    def kept(cls, mark: Json, folder: Path | None = None) -> Secret[Any]:
        """A secret as a store holds it; `folder` is where the store's key lies."""
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
            value: Any = _of_environment(how["env"])  # not remembered: the variable may be set anew
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
        raise TypeError("a secret is not pickled: hand on Secret.env(name), or the value where it is needed")


def _remember(value: object) -> None:
    """Give the redaction every text in a secret value that cannot come from anything but the secret.

    The starter of a run chooses its secrets: a common word as a secret would hide that word in all other texts.
    """
    if isinstance(value, str):
        if len(value) >= SURE_LENGTH and not is_plain_word(value):
            remember(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _remember(str(value))
    elif isinstance(value, Mapping):
        for inner in value.values():
            _remember(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _remember(inner)


def of_plain(value: object) -> Secret[Any]:
    """A secret from a plain value: a reference if a variable that is named like a secret holds it now."""
    if isinstance(value, str) and len(value) >= SHORTEST:
        for name, held in secrets_of_environment().items():
            if held == value and name != KEY_VARIABLE:
                return Secret.env(name)
    return Secret(value)


# ---- secrets among other values


def revealed(value: Any, seen: list[Secret[Any]] | None = None) -> Any:
    """The value with its secrets in the open; `seen` collects them."""
    if isinstance(value, Secret):
        if seen is not None:
            seen.append(value)
        return value.reveal()
    if isinstance(value, dict):
        return {key: revealed(inner, seen) for key, inner in value.items()}
    return [revealed(inner, seen) for inner in value] if isinstance(value, list) else value


def without(data: Json, secrets: list[Any]) -> Json:
    """Data with `***` for whatever equals one of these values."""
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
    """The marks of secrets in kept data."""
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
    """Does an annotation ask for a secret (`Secret[str]`, also `| None`)? And the type inside, or the annotation."""
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
    """Does an annotation ask for data with secrets inside of it (`list[Secret[str]]`)? No argument is made so."""
    if secret_type(annotation)[0]:
        return False
    if isinstance(annotation, str):
        return _INSIDE.search(annotation) is not None
    return any(secret_type(part)[0] or holds_secret_type(part) for part in get_args(annotation))


_INSIDE = re.compile(r"\[.*\bSecret\b")


def check_annotations(function: Callable[..., Any], place: Place) -> list[Problem]:
    """What is wrong with how a function asks for secrets."""
    wrong = [name for name, hint in _hints(function).items() if name != "return" and holds_secret_type(hint)]
    return [
        Problem(
            "E_SECRET_INPUT",
            f"{name} asks for data with secrets inside of it",
            replace(place, field=name),
            allowed="Secret[…] around the whole: Secret[list[str]], Secret[dict[str, str]]",
        )
        for name in wrong
    ]


def secret_names(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a function that ask for a secret, and `return` if it gives one."""
    return frozenset(name for name, hint in _hints(function).items() if secret_type(hint)[0])


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # a name that is only there for type checkers
        return dict(getattr(function, "__annotations__", {}))


def secret_problems(spec: InputSpec, place: Place, *, references: bool) -> list[Problem]:
    """What is wrong with a secret input: it is data, and no chain is a place for its value.

    With `references` the default may name a variable; text that anybody may send must not.
    """
    if spec.type == "file" or spec.source:
        return [Problem("E_SECRET_INPUT", "a file cannot be a secret input", place, allowed="text or other data")]
    if spec.default is None or (references and isinstance(spec.default, dict) and MARK in spec.default):
        return []
    cure = "give it to each run, or in Python: Secret.env(NAME) as the default"
    return [Problem("E_SECRET_INPUT", "a secret is written into the chain as a default", place, cure=cure)]


# ---- keeping


def sealed(value: Json, folder: Path) -> Json:
    """What is kept of a value: encrypted. Raises as `Secret.reveal`, StoreFailed (E_SECRET_KEY) for the key's file."""
    encoded = msgspec.json.encode(value)
    return {"sealed": _cipher(folder, os.environ.get(KEY_VARIABLE, "")).encrypt(encoded).decode()}


def check_kept(values: Json, folder: Path) -> None:
    """See that every secret in kept data can be had in this process. Raises as `Secret.reveal`."""
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
        raise StoreFailed("E_SECRET_KEY", "the key for secrets is none", cure=cure) from None


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
                os.fsync(file.fileno())  # a secret that was sealed with a lost key is lost
            try:
                os.link(temp, path)  # the first one stays
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
