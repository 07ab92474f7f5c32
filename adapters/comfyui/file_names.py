"""Names and folders of files as servers send them, and names for uploads. Pure.

A server's text never becomes part of a local path: bytes are stored under their digest. A name is kept for people,
and only if it is one plain file name on every system. Nothing is percent-decoded: `%2e` is three characters.
"""

from __future__ import annotations

import re
import unicodedata

from towpath.errors import ServerFailed

MAX_NAME = 255  # bytes of UTF-8; what file systems allow
MAX_SUBFOLDER = 1_000  # characters
MAX_UPLOAD_NAME = 100  # characters
FOLDER_TYPES = ("input", "output", "temp")

# Normalising takes quadratic time for long runs of combining marks. NFC makes a text at most four times shorter, so
# a text longer than this is too long in any form.
_NORMALISED = 4 * MAX_NAME
# Characters that separate folders on some system, look like that, or become a separator under NFKC (℀ becomes a/c).
_SEPARATORS = re.compile(r"[/\\\u2044\u2100\u2101\u2105\u2106\u2215\u2216\u29f5\u29f8\u29f9\ufe68\uff0f\uff3c]")
_DRIVE = re.compile(r"[A-Za-z]:")
_NAMED_DRIVE = re.compile(r"[C-Zc-z]:")  # A: and B: were floppy disks; there the colon is the error
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_FORBIDDEN = re.compile(r'[<>:"|?*]')  # on Windows; no path separator among them
# Letters and marks that are invisible, and code points that are not characters.
_BLANK = re.compile(r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufdd0-\ufdef\ufffe\uffff]")
_UNSHOWN = frozenset({"Cf", "Cs", "Co", "Zl", "Zp"})  # direction marks, joiners, surrogates, private use, line ends
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$|clock\$) *")
_EXTENSION = re.compile(r"[A-Za-z0-9]{1,8}")
_ODD = re.compile(r"[^A-Za-z0-9]+")


def display_name(name: object) -> str:
    """The name of a server's file, to be shown to people, in Unicode's form NFC.

    Raises:
        ServerFailed: E_REPLY_TYPE (not text), E_NAME_PATH, E_NAME_DOTS, E_NAME_EMPTY, E_NAME_CONTROL,
            E_NAME_UNICODE (invisible or misleading characters), E_NAME_RESERVED, E_NAME_CHAR, E_NAME_TRAIL,
            E_NAME_HIDDEN, E_NAME_LENGTH (over 255 bytes). A retry does not help.
    """
    if not isinstance(name, str):
        raise _refused("E_REPLY_TYPE", "the name of a file is not text", type(name).__name__, "text")
    if _SEPARATORS.search(name):
        raise _refused("E_NAME_PATH", "the name of a file contains a path separator", name, "a name without separators")
    if len(name) > _NORMALISED:
        raise _too_long(name)
    _refuse_unshown(name)
    plain = unicodedata.normalize("NFKC", name)  # in this form disguised characters become visible
    _refuse_place(name, plain)
    _refuse_unusable(name, plain)
    kept = unicodedata.normalize("NFC", name)
    if len(kept.encode()) > MAX_NAME:
        raise _too_long(name)
    return kept


def _refuse_unshown(name: str) -> None:
    if _CONTROL.search(name):
        raise _refused("E_NAME_CONTROL", "the name of a file has a control character", name)
    if _BLANK.search(name) or any(unicodedata.category(c) in _UNSHOWN for c in name):
        raise _refused("E_NAME_UNICODE", "the name of a file has invisible or misleading characters", name)


def _refuse_place(name: str, plain: str) -> None:
    """Refuse names that are paths, and names without any character to show."""
    if not plain.strip():
        raise _refused("E_NAME_EMPTY", "the name of a file is empty", name)
    if plain in (".", "..") or plain.startswith("~") or _NAMED_DRIVE.match(name):
        raise _refused("E_NAME_PATH", "the name of a file is a path", name, "a name of its own")
    if not plain.strip(". "):
        raise _refused("E_NAME_DOTS", "the name of a file has only dots", name)


def _refuse_unusable(name: str, plain: str) -> None:
    """Refuse names that some system cannot store, or hides."""
    if _FORBIDDEN.search(name):
        raise _refused(
            "E_NAME_CHAR", "a character that is not allowed in file names on every system", name, 'not < > : " | ? *'
        )
    if _RESERVED.fullmatch(plain.partition(".")[0].lower()):
        raise _refused("E_NAME_RESERVED", "the name of a file is a device on Windows", name)
    if plain.startswith("."):
        raise _refused(
            "E_NAME_HIDDEN",
            "the name of a file begins with a dot, so the file would be hidden",
            name,
            "a name that does not start with a dot",
        )
    if plain.endswith((".", " ")):
        raise _refused("E_NAME_TRAIL", "the name of a file ends with a dot or a space", name)


def subfolder(value: object) -> str:
    """The folder of a server's file, checked and unchanged: it is sent back as one encoded value. "" is the top folder.

    Servers on Windows write backslashes.

    Raises:
        ServerFailed: E_SUBFOLDER if it is not a relative path without `..` of at most 1,000 characters.
    """
    allowed = f"a relative path without .. of at most {MAX_SUBFOLDER} characters"
    if not isinstance(value, str):
        raise _refused("E_SUBFOLDER", "the folder of a file is not text", type(value).__name__, allowed)
    if len(value) > MAX_SUBFOLDER or _CONTROL.search(value) or not _encodable(value) or not _stays_inside(value):
        raise _refused("E_SUBFOLDER", "the folder of a file is not a plain relative path", value, allowed)
    return value


def folder_type(value: object) -> str:
    """Which of a server's three folders a file is in. Raises ServerFailed (E_FOLDER_TYPE)."""
    if isinstance(value, str) and value in FOLDER_TYPES:
        return value
    found = value if isinstance(value, str) else type(value).__name__
    raise _refused("E_FOLDER_TYPE", "not a folder of a ComfyUI server", found, " ".join(FOLDER_TYPES))


def upload_name(filename: str, digest: str) -> str:
    """The name for an upload: ASCII, at most 100 characters, different for different bytes.

    `digest` is the SHA-256 of the bytes in hex. `Café (1).PNG` becomes `2cf24dba5fb0a30e-Cafe_1.png`.
    """
    mark = digest[:16]
    assert re.fullmatch("[0-9a-f]{16}", mark), "a digest in hex"
    stem, _, ending = filename[-_NORMALISED:].rpartition(".")
    extension = f".{ending.lower()}" if stem.strip(".") and _EXTENSION.fullmatch(ending) else ""
    if not extension:
        stem = filename[:_NORMALISED]
    letters = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    room = MAX_UPLOAD_NAME - len(mark) - len("-") - len(extension)
    return f"{mark}-{_ODD.sub('_', letters).strip('_')[:room].rstrip('_') or 'file'}{extension}"


def _encodable(text: str) -> bool:
    """Whether a text can be sent: a lone surrogate has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stays_inside(path: str) -> bool:
    if not path:
        return True
    plain = unicodedata.normalize("NFKC", path).replace("\\", "/")
    parts = plain.removesuffix("/").split("/")
    return not _DRIVE.match(plain) and all(part.strip(". ") for part in parts)


def _refused(code: str, message: str, found: str, allowed: str = "") -> ServerFailed:
    return ServerFailed(code, message, found=found, allowed=allowed, retryable=False)


def _too_long(name: str) -> ServerFailed:
    return _refused("E_NAME_LENGTH", "the name of a file is too long", name, f"at most {MAX_NAME} bytes")
