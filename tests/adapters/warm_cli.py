"""The command line from a process that has imported it already: each call is a fork, and costs no start of Python.

As a script it is that process. It reads one call after the other from the socket on its stdin: a JSON line with
arguments, folder and environment, beside it the descriptors of stdout and stderr; it answers with the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOM = 1 << 20  # bytes of one call, at most


class WarmCli:
    """Calls `towpath` as `python -m towpath` does. Close it at the end."""

    def __init__(self) -> None:
        self._ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=its.fileno())

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """One call; its exit code and what it wrote. Raises TimeoutError after so many seconds."""
        call = json.dumps({"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)})
        with TemporaryFile() as out, TemporaryFile() as err:
            self._ours.settimeout(timeout)
            socket.send_fds(self._ours, [call.encode()], [out.fileno(), err.fileno()])
            code = int(self._ours.recv(ROOM))
            return subprocess.CompletedProcess(arguments, code, _text(out), _text(err))

    def close(self) -> None:
        """End the process; a call that still runs is killed."""
        self._ours.close()
        self._process.kill()
        self._process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


def _serve() -> Mapping[str, object] | None:
    """Fork for each call. Returns the call in a child, None in this process when the tests are over."""
    calls = socket.socket(fileno=0)
    while True:
        data, descriptors, _, _ = socket.recv_fds(calls, ROOM, 2)
        if not data:
            return None
        child = os.fork()
        if child == 0:
            for descriptor, standard in zip(descriptors, (1, 2), strict=True):
                os.dup2(descriptor, standard)
                os.close(descriptor)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            calls.detach()
            call: Mapping[str, object] = json.loads(data)
            return call
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        calls.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(call: Mapping[str, object]) -> None:
    """Folder, environment, arguments and import path of `python -m towpath`."""
    folder = str(call["folder"])
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(call["environment"])  # type: ignore[call-overload]
    sys.argv = ["towpath", *call["arguments"]]  # type: ignore[misc]
    sys.path[:1] = [folder, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    import towpath.adapters.cli.chains
    import towpath.adapters.cli.control
    import towpath.adapters.cli.decisions
    import towpath.adapters.cli.live_view
    import towpath.adapters.cli.run
    import towpath.adapters.cli.show
    import towpath.adapters.local
    import towpath.chain_file
    import towpath.store.fsck  # noqa: F401
    from towpath.adapters.cli import main

    asked = _serve()
    if asked is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _become(asked)
        main()
