"""The lines that an attempt keeps."""

from __future__ import annotations

import logging
import re
import threading

import pytest

from towpath.log_lines import LOG_LIMIT, LogLines

_TIME = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", re.MULTILINE)


def kept(lines: LogLines, *, final: bool = False) -> str:
    return _TIME.sub("", lines.text(final=final))


def test_a_line_without_an_end_is_the_last_one() -> None:
    lines = LogLines()
    lines.add_text("stdout", "one\ntw")
    lines.add_text("stderr", "\r10 %")
    assert kept(lines) == "INFO    stdout: one\nINFO    stdout: tw\nINFO    stderr: 10 %"
    lines.add_text("stderr", "\r20 %\r")
    lines.add_text("stdout", "o\r\n")
    assert kept(lines) == "INFO    stdout: one\nINFO    stdout: two\nINFO    stderr: 20 %"
    assert not lines.changed
    assert kept(lines, final=True) == "INFO    stdout: one\nINFO    stdout: two\nINFO    stderr: 20 %\n"


def test_a_bar_that_never_ends_its_line_stays_small() -> None:
    lines = LogLines()
    for n in range(10_000):
        lines.add_text("stderr", f"\r{n} {'#' * 60}")
    assert kept(lines) == f"INFO    stderr: 9999 {'#' * 60}"
    for _ in range(10_000):
        lines.add_text("stdout", "." * 10)
    assert len(lines.text()) > 100_000


def test_the_limit_counts_over_all_reads() -> None:
    lines = LogLines()
    for n in range(30):
        lines.add_text("stdout", f"{n} " + "x" * 20_000 + "\n")
        assert len(lines.text()) <= LOG_LIMIT
    found = kept(lines).splitlines()
    assert found[-1].startswith("INFO    stdout: 29 ")
    assert all(re.fullmatch(r"INFO    stdout: \d+ x{20000}", line) for line in found)
    lines.add_text("stdout", "y" * 3 * LOG_LIMIT + "\n")
    assert lines.text() == "y" * (LOG_LIMIT - 1) + "\n"


def test_threads_lose_no_line() -> None:
    lines = LogLines()

    def work(name: str) -> None:
        for n in range(500):
            lines.add_line("INFO", name, str(n))
            if n % 100 == 0:
                lines.text()

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = kept(lines).splitlines()
    for n in range(4):
        assert [line for line in found if f"t{n}:" in line] == [f"INFO    t{n}: {i}" for i in range(500)]


def test_a_formatter_of_the_program_gets_the_record_as_it_was() -> None:
    """Formatters leave what they made in the record."""
    try:
        raise ValueError("x")
    except ValueError as error:
        record = logging.LogRecord("a", logging.INFO, "f.py", 1, "m %s", (1,), (ValueError, error, error.__traceback__))
    before = dict(vars(record))
    lines = LogLines()
    lines.add_record(record)
    assert vars(record) == before
    assert "ValueError: x" in lines.text()


def test_no_line_has_colours() -> None:
    """Messages are coloured for terminals by libraries, too; printed lines lose their colours anyway."""
    lines = LogLines()
    red = "\x1b[31mred\x1b[0m"
    lines.add_record(logging.LogRecord("odd", logging.INFO, "", 0, "a %s b", (red,), None))
    lines.add_line("WARNING", "warnings", red)
    lines.add_own(0.0, "INFO", f"{red}\nand\x1b]8;;http://x\x07more")
    lines.add_text("stdout", f"{red}\n")
    text = lines.text()
    assert "\x1b" not in text
    assert text.count("red") == 4
    assert text.count("andmore") == 1


def test_long_names_are_cut_in_front() -> None:
    lines = LogLines()
    lines.add_line("INFO", "package.subpackage.module.Class.method", "text")
    assert kept(lines) == "INFO    ….subpackage.module.Class.method: text\n"


def test_a_secret_of_several_lines_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line has a time of its own, and the reader may come between them; neither hides a part of a secret."""
    secret = "first-Line-8873\nsecond-Line-9938\nthird-Line-1214"
    monkeypatch.setenv("SERVICE_SECRET", secret)
    lines = LogLines()
    lines.add_text("stdout", f"it is {secret}, they say\n")
    assert kept(lines) == "INFO    stdout: it is ***\nINFO    stdout: ***, they say\n"
    for part in secret.split("\n"):
        lines.add_line("INFO", "library", part)
        lines.text()
    lines.add_line("INFO", "library", "the end")
    assert "third-Line" not in lines.text()
    assert kept(lines).endswith("the end\n")


def test_a_line_stays_a_line_when_it_ends_with_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "hunter2-xyz-Secret99")
    lines = LogLines()
    lines.add_text("stdout", "one hunter2-xyz-Secret99\ntwo\n")
    lines.add_text("stdout", "password:\n")
    lines.add_line("INFO", "library", "hunter2-xyz-Secret99")
    lines.add_line("INFO", "library", "four")
    assert kept(lines) == (
        "INFO    stdout: one ***\nINFO    stdout: two\nINFO    stdout: password:\n"
        "INFO    library: ***\nINFO    library: four\n"
    )


def test_a_secret_where_a_very_long_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "hunter2-xyz-Secret99")
    lines = LogLines()
    for part in ["x" * 16_380, "hunter2-", *[""] * 100, "xyz-Secret99", " and more\n"]:
        lines.add_text("stdout", part)
    assert kept(lines).replace("x" * 16_380, "x…") == "INFO    stdout: x…***\nINFO    stdout: *** and more\n"
