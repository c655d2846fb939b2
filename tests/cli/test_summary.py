"""The table at the end of a command, where no terminal sets its width."""

import pytest

from rational_jax.cli.summary import print_table


@pytest.mark.parametrize("columns", [1, 30])
def test_a_pipe_gets_the_table_as_wide_as_it_is(capsys, monkeypatch, columns):
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # each can make a pipe pass for a terminal
        monkeypatch.delenv(variable, raising=False)
    header = ["model", *(f"figure {i}" for i in range(columns))]
    rows = [["rational", *["0.123 [0.100, 0.150]"] * columns], ["base", *["–"] * columns]]
    print_table(header, rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [" ".join(row).split() for row in ([], header, *rows)]
    # Columns of 8 and 20 characters, with two blanks between them.
    assert {len(line) for line in lines[1:]} == {8 + 22 * columns}
