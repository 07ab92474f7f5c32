"""What has one obvious file: how such an object is saved in a file, and loaded from it again.

towpath knows the types of some libraries, and finds these in `sys.modules`: it imports none that the program has not
imported. Others are registered with `codec`. Nothing here uses pickle.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .artifact import Artifact, File, KeptFile
from .cures import Refused, form_of, pretender, refused
from .errors import InputInvalid, Place
from .json_form import MAX_DEPTH, NOT_NATURAL, Count, TooLarge, full_name, names_of, plain_form
from .media import media_of_name
from .secrets import Secret

T = TypeVar("T")

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_HOLDERS = frozenset({list, tuple, dict})
_STAY = (bytes, bytearray, memoryview, File, KeptFile, Artifact, PathLike, Secret, Refused)


class Codec(NamedTuple):
    """How objects of one type are saved and loaded. `suffix` may depend on the object."""

    kind: type
    save: Callable[[Any, Path], object]
    load: Callable[[Path], Any] | None
    suffix: str | Callable[[Any], str]
    media_type: str | None = None
    subclasses: frozenset[str] | None = None  # None: all of them

    def is_of(self, kind: type, base: type) -> bool:
        """Does the file of `base` lose nothing of an object of this class?"""
        return self.subclasses is None or kind is base or not self.subclasses.isdisjoint(names_of(kind))


_HAVE_A_FORM = frozenset({
    object, type(None), bool, int, float, str, list, tuple, dict, bytes, bytearray, memoryview, Path, File, Artifact,
})  # fmt: skip

_registered: dict[type, Codec] = {}
_calls = 0


def codec(
    kind: type[T],
    save: Callable[[T, Path], object],
    load: Callable[[Path], T],
    suffix: str,
    *,
    media_type: str | None = None,
) -> None:
    """Say how objects of a type are kept in a file, and made of it again.

    A step may then return such objects, anywhere in its value; each becomes an artifact. A parameter that is annotated
    with the type gets the loaded object. Subclasses are kept in the same way, unless they have a codec of their own.

    Args:
        kind: the class.
        save: `save(value, path)` writes the file. It is a plain function, called in the thread or process of the step.
        load: `load(path)` returns the object.
        suffix: the extension of the file, with its dot.
        media_type: the type of the file; by default what the extension says.

    Raises:
        InputInvalid: E_FIELD_TYPE.
    """
    for name, fits, allowed in (
        ("kind", isinstance(kind, type) and kind not in _HAVE_A_FORM, "a class, but none that has a form already"),
        ("save", callable(save) and not inspect.iscoroutinefunction(save), "a plain function of a value and a path"),
        ("load", callable(load) and not inspect.iscoroutinefunction(load), "a plain function of a path"),
        ("suffix", isinstance(suffix, str) and suffix.startswith(".") and "/" not in suffix, 'text like ".bin"'),
        ("media_type", media_type is None or isinstance(media_type, str), "text like image/png"),
    ):
        if not fits:
            message = f"this cannot be the {name} of a codec"
            found = {"kind": kind, "save": save, "load": load, "suffix": suffix, "media_type": media_type}[name]
            raise InputInvalid("E_FIELD_TYPE", message, place=Place(field=name), found=found, allowed=allowed)
    global _calls  # noqa: PLW0603
    _calls += 1
    _registered[kind] = Codec(kind, save, load, suffix, media_type)
    _found.cache_clear()


def registrations() -> int:
    """How often `codec` was called: what was found out about codecs before the last call may be wrong."""
    return _calls


def codec_for(kind: type) -> Codec | None:
    """The codec of a class, or of its nearest base class that has one."""
    return _found(kind) if are_there() else None


def are_there() -> bool:
    """Is there any codec: a registered one, or one of a library that the program has imported?"""
    if _registered:
        return True
    for name in _LIBRARIES:  # noqa: SIM110 - this is called for each value, and `any` takes three times as long
        if name in sys.modules:
            return True
    return False


@lru_cache(1024)
def _found(kind: type) -> Codec | None:
    for base in type.mro(kind):
        known = _registered.get(base) or _known(base)
        if known is not None:
            return known if known.is_of(kind, base) else None
    return None


def _known(kind: type) -> Codec | None:
    library = str(getattr(kind, "__module__", "")).partition(".")[0]
    for (module, name), known in _KNOWN.items():
        if module.partition(".")[0] == library and getattr(sys.modules.get(module), name, None) is kind:
            return known._replace(kind=kind)
    return None


# ---- saving


def files_saved(value: Any, folder: Callable[[], Path]) -> Any:
    """The value, with files where there were objects that have a codec. They are written into `folder()`.

    It blocks, and calls code of the user: it is called in the thread or process that made the value. What cannot be
    kept is replaced by a `Refused`, which `values.py` refuses with its place. It refuses what is too large, too.
    """
    return value if type(value) in _PLAIN else _Saving(folder).whole(value)


def formed(value: Any) -> Any:
    """The value, with everything in its JSON form that has one. Files, and what cannot be kept, stay."""
    return value if type(value) in _PLAIN else _Saving(None).whole(value)


class _Saving:
    """One walk over a value. What has a JSON form is replaced by that form, because files may be inside."""

    def __init__(self, folder: Callable[[], Path] | None) -> None:
        self._folder = folder
        self._saved: dict[int, tuple[File | Refused, Any]] = {}  # the object too, so that its id stays its own
        self._open: set[int] = set()  # what the walk is in: a value may contain itself
        self._count = Count(None)

    def whole(self, value: Any) -> Any:
        """The value, or itself where it is too large."""
        self._count = Count(value)
        try:
            return self.visit(value, 0)
        except TooLarge:
            return value

    def visit(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _PLAIN or depth > MAX_DEPTH:
            return value
        self._count.visit(value, len(value) if kind is list or kind is tuple else 0)
        return self._data(value, depth) if kind in _HOLDERS else self._inside(_Saving._object, value, depth)

    def _data(self, value: Any, depth: int) -> Any:
        """A list, a tuple or a dict."""
        if type(value) is dict:
            return value if _PLAIN.issuperset(map(type, value.values())) else self._inside(_dict_saved, value, depth)
        return value if _PLAIN.issuperset(map(type, value)) else self._inside(_items_saved, value, depth)

    def _inside(self, save: Callable[[_Saving, Any, int], Any], value: Any, depth: int) -> Any:
        """What `save` makes of a value. One that contains itself stays there, and values.py refuses it."""
        if id(value) in self._open:
            return value
        self._open.add(id(value))
        try:
            return save(self, value, depth)
        finally:
            self._open.discard(id(value))

    def _object(self, value: Any, depth: int) -> Any:
        false = pretender(value)
        if false is not None:
            return false if self._folder is not None else value
        known = codec_for(type(value)) if self._folder is not None else None
        if known is not None:
            return self._file(value, known)
        if isinstance(value, dict):
            return _dict_saved(self, value, depth)
        return plain_form(value) if isinstance(value, str | int | float) else self._formed(value, depth)

    def _formed(self, value: Any, depth: int) -> Any:
        data = value if isinstance(value, _STAY) else form_of(value)
        if data is value or isinstance(data, Refused):
            return data
        if type(data) in _HOLDERS:
            return self._data(data, depth)
        if data is not NOT_NATURAL:
            return self.visit(data, depth + 1)
        is_kept = self._folder is None or isinstance(value, AsyncIterable | Awaitable)
        return value if is_kept else refused(value)

    def _file(self, value: Any, known: Codec) -> File | Refused:
        if id(value) not in self._saved:
            self._saved[id(value)] = self._written(value, known), value
        return self._saved[id(value)][0]

    def _written(self, value: Any, known: Codec) -> File | Refused:
        import tempfile  # noqa: PLC0415 - most programs save nothing in this way

        assert self._folder is not None
        try:
            suffix = known.suffix if isinstance(known.suffix, str) else known.suffix(value)
            place = Path(tempfile.mkdtemp(prefix="kept-", dir=self._folder())) / f"value{suffix}"
            known.save(value, place)
        except _CannotSave as error:
            return _refused(value, f"and {error.why}", error.cure)
        except Exception as error:
            why = f"and its codec raised {type(error).__name__}: {error}"
            return _refused(value, why, "mend the codec, or write the file in the step and return its path")
        if place.is_file() and not place.is_symlink():
            return File(place, None, known.media_type or media_of_name(place.name))
        found = "a folder" if place.is_dir() else "no file"
        return _refused(value, f"and its codec wrote {found}", "let save(value, path) write one file at that path")


def _items_saved(saving: _Saving, values: Any, depth: int) -> Any:
    return [saving.visit(inner, depth + 1) for inner in values]


def _dict_saved(saving: _Saving, value: Any, depth: int) -> Any:
    return {name: saving.visit(inner, depth + 1) for name, inner in value.items()}


def _refused(value: Any, why: str, cure: str) -> Refused:
    return Refused(full_name(type(value)), why, cure, "E_CODEC")


class _CannotSave(Exception):
    """A codec of ours cannot save or load this."""

    def __init__(self, why: str, cure: str) -> None:
        super().__init__(why)
        self.why, self.cure = why, cure


# ---- loading


def load_file(path: Path, annotation: Any) -> Any:
    """The object that a file holds, by the class that a parameter is annotated with. It blocks.

    Raises:
        InputInvalid: E_ARGUMENT_TYPE if the class has no codec that can load, or if it cannot read this file.
    """
    known = codec_for(annotation) if isinstance(annotation, type) else None
    if known is None or known.load is None:
        cure = "annotate the parameter as Path or Artifact, and read the file in the step"
        raise _unreadable(path, annotation, "a file cannot become one", cure)
    try:
        loaded = known.load(path)
    except _CannotSave as error:
        raise _unreadable(path, annotation, error.why, error.cure) from None
    except Exception as error:
        cure = "annotate the parameter as Path or Artifact, and read the file in the step"
        raise _unreadable(path, annotation, f"{type(error).__name__}: {error}", cure) from error
    if not isinstance(loaded, annotation):
        cure = f"register towpath.codec for {annotation.__name__}, or annotate {type(loaded).__name__}"
        raise _unreadable(path, annotation, f"its codec gives a {full_name(type(loaded))}", cure)
    return loaded


def _unreadable(path: Path, annotation: Any, why: str, cure: str) -> InputInvalid:
    message = f"the file {path.name} cannot be read as {full_name(annotation)}: {why}"
    return InputInvalid("E_ARGUMENT_TYPE", message, cure=cure)


# ---- the libraries that towpath knows


def _has_parquet() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in ("pyarrow", "fastparquet"))


def _frame_suffix(_: Any) -> str:
    return ".parquet" if _has_parquet() else ".csv"


def _save_frame(frame: Any, path: Path) -> None:
    """A pandas DataFrame as parquet, or as CSV where no library writes parquet. The index is kept."""
    if path.suffix == ".csv":
        if frame.index.nlevels > 1 or frame.columns.nlevels > 1 or frame.index.name is not None:
            raise _CannotSave("a CSV file cannot keep its index", "pip install pyarrow, or return df.reset_index()")
        frame.to_csv(path)
        return
    _check_frame(frame)
    try:
        frame.to_parquet(path)
    except Exception as error:  # which exception depends on the library that writes parquet
        cure = (
            "give each column one type, for example df.astype({'column': str}), and names of text; "
            "or write the file in the step, and return its path"
        )
        raise _CannotSave(f"parquet cannot hold it: {error}", cure) from None


def _check_frame(frame: Any) -> None:
    """Refuse what parquet would change without saying so."""
    columns = frame.columns
    levels = columns.levels if columns.nlevels > 1 else [columns]
    odd = [level.inferred_type for level in levels if level.inferred_type not in _COLUMN_NAMES]
    if odd:
        raise _CannotSave(
            f"parquet cannot hold column names of type {odd[0]}", "df.columns = df.columns.map(str) in the step"
        )
    for at in range(frame.shape[1]):
        column = frame.iloc[:, at]
        if column.dtype == object and {dict, set, frozenset} & (kinds := set(map(type, column))):
            if kinds & {set, frozenset}:
                raise _CannotSave(f"parquet cannot hold the sets in {columns[at]}", "make lists of them: .map(sorted)")
            if len({tuple(one) for one in column if isinstance(one, dict)}) > 1:
                why = f"parquet would give all mappings in {columns[at]} the same keys"
                raise _CannotSave(why, "make texts of them: .map(json.dumps)")


_COLUMN_NAMES = frozenset("string empty integer floating datetime64 datetime date unicode".split())


def _load_frame(path: Path) -> Any:
    pandas = sys.modules["pandas"]
    if _is_parquet(path):
        return pandas.read_parquet(path)
    if path.suffix in (".csv", ".tsv", ".txt"):
        separator = "\t" if path.suffix == ".tsv" else ","
        with path.open(encoding="utf-8-sig") as file:
            has_index = file.readline().startswith((separator, f'""{separator}'))
        return pandas.read_csv(path, sep=separator, index_col=0 if has_index else None)
    raise _no_table(path)


def _is_parquet(path: Path) -> bool:
    """By its name, or by its first bytes: a file that was uploaded may have another name."""
    if path.suffix == ".parquet":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _no_table(path: Path) -> _CannotSave:
    found = path.suffix or "no extension"
    return _CannotSave(f"{found} is not .parquet or .csv", "annotate the parameter as Path, and read it")


def _save_polars(frame: Any, path: Path) -> None:
    frame.write_parquet(path)


def _load_polars(path: Path) -> Any:
    polars = sys.modules["polars"]
    if _is_parquet(path):
        return polars.read_parquet(path)
    if path.suffix in (".csv", ".tsv", ".txt"):
        return polars.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    raise _no_table(path)


def _save_array(array: Any, path: Path) -> None:
    numpy = sys.modules["numpy"]
    if array.dtype.hasobject:
        raise _CannotSave("it is an array of Python objects", "return array.tolist(), or array.astype(float)")
    if isinstance(array, numpy.ma.MaskedArray):
        raise _CannotSave("it is a masked array", "return array.filled(…), or {'data': array.data, 'mask': array.mask}")
    numpy.save(path, array, allow_pickle=False)


def _load_array(path: Path) -> Any:
    return sys.modules["numpy"].load(path, allow_pickle=False)


_LAYOUT = frozenset({  # tags of TIFF that say where its pixels lie
    *range(254, 260), 262, 273, *range(277, 281), 284, *range(320, 348), *range(512, 533),
})  # fmt: skip
_PNG_MODES = frozenset("1 L LA P RGB RGBA I;16".split())
_TIFF_MODES = frozenset("CMYK YCbCr LAB F I".split())  # PNG would change or refuse them


def _image_suffix(image: Any) -> str:
    if image.mode in _PNG_MODES:
        return ".png"
    if image.mode in _TIFF_MODES:
        return ".tiff"
    raise _CannotSave(f"no image file holds the mode {image.mode}", 'return image.convert("RGBA")')


def _exif_of(image: Any) -> Any:
    """What a photo says of itself, such as that it must be turned; a PNG file gets it only if it is told so."""
    try:
        exif = image.getexif()
        own = type(exif)()
        own.load(exif.tobytes())
    except Exception:  # many cameras write it wrong
        return None
    for tag in _LAYOUT & own.keys():
        del own[tag]
    return own


def _save_image(image: Any, path: Path) -> None:
    if getattr(image, "n_frames", 1) > 1:
        raise _CannotSave(
            "it has several frames", "save it in the step, and return the path; or return one frame: image.copy()"
        )
    exif = _exif_of(image)
    image.save(path, **({"exif": exif} if exif else {}))


def _load_image(path: Path) -> Any:
    image = sys.modules["PIL.Image"].open(path)
    image.load()  # it is read lazily, and the file may be gone later
    return image


def _save_figure(figure: Any, path: Path) -> None:
    figure.savefig(path)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)  # pyplot keeps every figure that is not closed


_ARRAYS = frozenset({"numpy.memmap", "numpy.MaskedArray"})  # an npy file keeps no other class; masks are refused above
_KNOWN: dict[tuple[str, str], Codec] = {
    ("pandas", "DataFrame"): Codec(object, _save_frame, _load_frame, _frame_suffix, None, frozenset()),
    ("polars", "DataFrame"): Codec(object, _save_polars, _load_polars, ".parquet", None, frozenset()),
    ("numpy", "ndarray"): Codec(object, _save_array, _load_array, ".npy", None, _ARRAYS),
    ("PIL.Image", "Image"): Codec(object, _save_image, _load_image, _image_suffix),
    ("matplotlib.figure", "Figure"): Codec(object, _save_figure, None, ".png"),
}
_LIBRARIES = frozenset(module for module, _ in _KNOWN)
