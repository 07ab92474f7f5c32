"""What to do about a value that cannot be kept, by its type. Types of libraries are known by their names."""

from __future__ import annotations

import enum
import io
import re
import types
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from msgspec import Struct

from .json_form import TooLarge, full_name, names_of, to_data

ALLOWED = "JSON data and what has a JSON form (dataclass, date, set, …), bytes, a Path, an async byte stream, a File"
TOO_LARGE = "too large to be stored as data: its JSON would have more than 64 MiB"
WRITTEN = "what stands in a value many times is written many times"
SMALLER = f"return bytes or a path; {WRITTEN}"
_OWN = "it belongs to this process: make it in the step that uses it"


class Refused(Struct, frozen=True):
    """Stands in a value for an object that cannot be kept: it says why. `type` is the name of its class."""

    type: str
    why: str
    cure: str
    code: str = "E_VALUE_TYPE"


def refused(value: object) -> Refused:
    """What stands for an object that has neither a JSON form nor a file."""
    return Refused(full_name(type(value)), "which is neither JSON data nor a file", cure_of(value))


def pretender(value: Any) -> Refused | None:
    """What stands for an object that says to be of another class than it is, such as a mock or a proxy. It has not
    what that class has, so nothing can be kept of it.
    """
    kind: type = type(value)
    try:
        is_honest = value.__class__ is kind
    except Exception:  # it is the property of a class of the user
        is_honest = False
    if is_honest and not _is_mock(kind):
        return None
    cure = "return the object behind it, or its data; of a mock, give it a return_value"
    return Refused(full_name(kind), "which stands for an object of another class", cure)


@lru_cache(4096)
def _is_mock(kind: Any) -> bool:
    return "unittest.NonCallableMock" in names_of(kind)


def form_of(value: object) -> Any:
    """The JSON form of a value, as `to_data`; what stands for it if methods of its own class raise."""
    try:
        return to_data(value)
    except TooLarge:
        return Refused(full_name(type(value)), TOO_LARGE, SMALLER, "E_VALUE_SIZE")
    except Exception as error:  # it is code of the user, or of a library
        why = f"and taking it apart raised {type(error).__name__}: {error}"
        return Refused(full_name(type(value)), why, "return its data, as a dict or a list")


_BY_NAME: dict[str, str] = {
    "sklearn.BaseEstimator": (
        "save it, joblib.dump(model, context().work_folder / 'model.joblib'), and return that path; "
        "or register towpath.codec for it"
    ),
    "torch.Tensor": "return tensor.detach().cpu().numpy(), or tensor.tolist()",
    "torch.Module": "save it, torch.save(model.state_dict(), path), and return that path; or register towpath.codec",
    "torch.device": "return str(…)",
    "torch.dtype": "return str(…)",
    "tensorflow.EagerTensor": "return tensor.numpy()",
    "tensorflow.Tensor": "return tensor.numpy()",
    "keras.Model": "save it, model.save(path), and return that path; or register towpath.codec",
    "jaxlib.ArrayImpl": "return numpy.asarray(…)",
    "jax.Array": "return numpy.asarray(…)",
    "xgboost.Booster": "save it, booster.save_model(path), and return that path; or register towpath.codec",
    "lightgbm.Booster": "save it, booster.save_model(path), and return that path; or register towpath.codec",
    "pandas.Series": "return series.to_frame(), or series.tolist(), or series.to_dict()",
    "pandas.Index": "return index.tolist()",
    "pandas.ExtensionArray": "return list(…)",
    "pandas.NAType": "return None",
    "pandas.NaTType": "return None",
    "pandas.Period": "return str(…)",
    "pandas.Interval": "return [interval.left, interval.right]",
    "pandas.DataFrameGroupBy": "return the frame that an aggregation of it gives",
    "polars.Series": "return series.to_frame(), or series.to_list()",
    "polars.LazyFrame": "return frame.collect()",
    "pyarrow.Table": "return table.to_pandas(), or write it, parquet.write_table(table, path), and return the path",
    "scipy.spmatrix": "save it, scipy.sparse.save_npz(path, matrix), and return that path; or matrix.toarray()",
    "scipy.sparray": "save it, scipy.sparse.save_npz(path, matrix), and return that path; or matrix.toarray()",
    "matplotlib.Artist": "return its figure: ax.figure",
    "plotly.BaseFigure": "return figure.to_html().encode(), or write a picture, and return its path",
    "pydantic.SecretStr": "return towpath.Secret(value.get_secret_value()), outside of the model",
    "pydantic.SecretBytes": "return towpath.Secret(value.get_secret_value().decode()), outside of the model",
    "pydantic.Secret": "return towpath.Secret(value.get_secret_value()), outside of the model",
    "numpy.complexfloating": "return [z.real, z.imag]",
    "numpy.datetime64": "return None where there is no time",
    "numpy.timedelta64": "return None where there is no time, and int(…) of units that are no part of seconds",
    "numpy.void": "return value.item(), which is a tuple",
    "numpy.ndarray": "return numpy.asarray(…), which is a plain array; or register towpath.codec for its class",
    "pandas.DataFrame": "return pandas.DataFrame(frame), a plain frame; or register towpath.codec for its class",
    "polars.DataFrame": "return polars.DataFrame(frame), a plain frame; or register towpath.codec for its class",
    "numpy.dtype": "return str(…)",
    "bs4.PageElement": "return str(…)",
    "_thread.lock": _OWN,
    "_thread.RLock": _OWN,
    "threading.Thread": _OWN,
    "threading.Event": _OWN,
    "threading.Condition": _OWN,
    "threading.Semaphore": _OWN,
    "_thread._local": _OWN,
    "queue.Queue": _OWN,
    "asyncio.Queue": _OWN,
    "socket.socket": _OWN,
    "_socket.socket": _OWN,
    "sqlite3.Row": "return dict(row)",
    "sqlalchemy.Row": "return dict(row._mapping)",
    "subprocess.Popen": "wait for it, and return its exit code, or what it wrote",
    "subprocess.CompletedProcess": "return result.stdout, or result.returncode",
    "requests.Response": "return response.json(), response.text or response.content",
    "httpx.Response": "return response.json(), response.text or response.content",
    "tempfile._TemporaryFileWrapper": "close it, and return its path: pathlib.Path(file.name)",
}

_BY_CLASS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (enum.Enum, "give its members values of text or numbers, or return member.name"),
    (range, "it is too long: return its ends"),
    ((io.BytesIO, io.StringIO), "return its content: file.getvalue()"),
    (io.IOBase, "close it, and return its path: pathlib.Path(file.name)"),
    (Awaitable, "make the step an `async def`, and await it there"),
    (AsyncIterator, "return a list, or bytes"),
    (Iterator, "return list(…)"),
    (complex, "return [z.real, z.imag]"),
    (BaseException, "return str(error), or raise it"),
    (re.Pattern, "return pattern.pattern"),
    (re.Match, "return match.group(), or match.groups()"),
    (type, "return its name: cls.__name__"),
    (types.ModuleType, "return its name: module.__name__"),
    (
        (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.MethodWrapperType),
        "return what it computes, or its name",
    ),
    (AbstractContextManager, "enter it in the step, and return what is to be kept"),
)


def cure_of(value: object) -> str:
    """What to return instead of a value that cannot be kept."""
    if isinstance(value, float):
        return "return None, or text, where there is no number"
    found = _of_name(type(value))
    if found:
        return found
    for kinds, cure in _BY_CLASS:
        if isinstance(value, kinds):
            return cure
    if callable(value):
        return "return what it computes, or its name"
    return _general(type(value))


def cure_of_class(kind: type) -> str:
    """What to return instead of objects of a class that cannot be kept."""
    if _of_name(kind):
        return _of_name(kind)
    return next((cure for kinds, cure in _BY_CLASS if issubclass(kind, kinds)), _general(kind))


def _of_name(kind: type) -> str:
    return next((_BY_NAME[name] for name in names_of(kind) if name in _BY_NAME), "")


def _general(kind: Any) -> str:
    name = kind.__name__
    return f"return its data, as a dict or a dataclass; or register towpath.codec({name}, save, load, '.ext')"
