"""Lists of the command line at 80 columns, at 200, and in a pipe (newcomer F11)."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from towpath import FeatureMissing, InputInvalid
from towpath.adapters.cli.screen import Row, cut_in_the_middle, print_list, words
from towpath.adapters.settings import settle

RUNS = [
    ("327badca", "gates", "paused", "approval"),
    ("af8a9b10", "quarterly_report_of_the_whole_company", "failed", "step bad[0]: RuntimeError: CUDA out of memory"),
    ("c12c2e5c", "one", "completed", ""),
]


def printed(rows: list[Row], columns: tuple[str, ...], width: int, terminal: bool = True, **how: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        print_list(console, columns, rows, **how)
    return captured.get().splitlines()


def runs() -> list[Row]:
    return [((words(i), words(name), words(status)), words(why)) for i, name, status, why in RUNS]


def test_a_note_stands_below_where_there_is_no_room() -> None:
    assert printed(runs(), ("run", "chain", "status"), 80, cut=("chain",)) == [
        "run       chain                                  status",
        "327badca  gates                                  paused",
        "  approval",
        "af8a9b10  quarterly_report_of_the_whole_company  failed",
        "  step bad[0]: RuntimeError: CUDA out of memory",
        "c12c2e5c  one                                    completed",
    ]


def test_a_note_stands_behind_its_row_where_there_is() -> None:
    shown = printed(runs(), ("run", "chain", "status"), 200, cut=("chain",))
    assert shown[2] == f"af8a9b10  {RUNS[1][1]}  failed     {RUNS[1][3]}"
    assert len(shown) == 4


def test_a_pipe_gets_one_uncut_line_for_each_row() -> None:
    shown = printed(runs(), ("run", "chain", "status"), 40, terminal=False, cut=("chain",))
    assert shown[2] == f"af8a9b10  {RUNS[1][1]}  failed     {RUNS[1][3]}"
    assert len(shown) == 4


def test_names_are_cut_in_their_middle_and_figures_never() -> None:
    """The item of a step and the ending of a file tell rows apart."""
    row = (words("a_step_with_a_really_long_name[17]"), words("a-file-with-a-long-name.parquet"), words("123.5 kB"))
    [_, line] = printed([(row, words(""))], ("step", "file", "size"), 50, right=("size",), cut=("file", "step"))
    assert len(line) <= 50
    assert line.endswith("  123.5 kB")
    assert "name[17]" in line or "e[17]" in line
    assert "parquet" in line or "rquet" in line


def test_wide_characters_are_cut_by_their_columns() -> None:
    row = (words("01"), words("图" * 40 + ".png"), words("completed"))
    [_, line] = printed([(row, words(""))], ("run", "file", "status"), 60, cut=("file",))
    assert cell_len(line) <= 60
    assert ".png " in line
    assert cell_len(cut_in_the_middle(Text("失败" * 30), 12).plain) <= 12


def test_a_long_note_has_as_many_lines_as_it_may() -> None:
    rows: list[Row] = [((words("bad"),), words("word " * 60))]
    shown = printed(rows, ("step",), 80, note_lines=3)
    assert len(shown) == 2 + 3
    assert shown[-1].endswith("…")
    assert all(len(line) <= 80 for line in shown)
    assert len(printed(rows, ("step",), 80)) == 2, "a cut note stands behind its row, if there is room for much of it"


@pytest.mark.parametrize(("address", "refused"), [("postgresql://h/d", FeatureMissing), ("oracle://x", InputInvalid)])
def test_an_error_says_where_the_address_came_from(address: str, refused: type[Exception]) -> None:
    """newcomer F20: DATABASE_URL is set on many machines, for other programs."""
    with pytest.raises(refused, match="the environment variable DATABASE_URL") as caught:
        settle(environment={"DATABASE_URL": address})
    assert "TOWPATH_STORE" in str(caught.value)
    with pytest.raises(refused) as given:
        settle(address, environment={"DATABASE_URL": "sqlite:///x.db"})
    assert "DATABASE_URL" not in str(given.value)
