"""Progress bar on stderr."""

from __future__ import annotations

import io

from rich.console import Console

from polytask_client.progress import Bar


def test_a_terminal_has_a_bar_with_the_time_left() -> None:
    """A terminal shows a bar with count, total and time left, and printed lines above it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bar(10, 4, console) as bar:
        bar.advance()
        bar.print_line("line 5: [red]not JSON[/red]")
    assert isinstance(console.file, io.StringIO)
    with_bar = console.file.getvalue()
    assert "5/10" in with_bar
    assert "left" in with_bar
    assert "line 5: [red]not JSON[/red]" in with_bar


def test_a_file_has_only_what_is_said() -> None:
    """A log file gets the printed lines and no bar."""
    console = Console(file=io.StringIO(), width=120)
    with Bar(None, console=console) as bar:
        bar.advance()
        bar.print_line("a line")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "a line\n"
