"""What long work shows on a terminal."""

import io

import pytest
from rich.console import Console

from deepseek.cli import console
from deepseek.cli.console import ReadingBar, progress_bars


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(console, "STDERR", Console(file=written, force_terminal=True, width=100))
    return written


def test_reading_shows_tokens_and_goes_away(terminal: io.StringIO) -> None:
    total = 10 * ReadingBar.LONG
    with ReadingBar() as bar:
        bar(0, total)
        bar(total // 2, total)
        bar.stop()
        bar.stop()
        shown = terminal.getvalue()
    assert "reading" in shown
    assert f"/{total}" in shown


@pytest.mark.parametrize("is_terminal", [True, False])
def test_short_prompts_and_pipes_show_nothing(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "STDERR", Console(file=written, force_terminal=is_terminal))
    with ReadingBar() as bar:
        bar(0, ReadingBar.LONG - 1 if is_terminal else 10 * ReadingBar.LONG)
    assert not written.getvalue()


def test_each_title_has_a_bar_until_it_is_full(terminal: io.StringIO) -> None:
    with progress_bars() as show:
        show("analysing", 3, 20)
        show("tokens", 1_024, 9_999)
    begun = terminal.getvalue()
    assert "analysing" in begun
    assert "1024/9999" in begun
    with progress_bars() as show:
        show("tokens", 9_999, 9_999)
        show("analysing", 4, 20)
    ended = terminal.getvalue()[len(begun) :]
    assert "4/20" in ended
    assert "9999/9999" not in ended
