"""Progress where there is no terminal: a plain line now and then."""

import logging
import time

import pytest
from rich.console import Console

from pipeline import progress


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=False))


def test_a_line_says_how_many_are_done_and_what_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    with caplog.at_level(logging.INFO):
        assert list(progress.track("abcdef", "blocks", total=6)) == list("abcdef")
    assert caplog.messages == [
        "  blocks: 1 of 6, about 2 min left",
        "  blocks: 3 of 6, about 40 s left",
        "  blocks: 5 of 6, about 12 s left",
    ]


def test_what_is_done_soon_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress.track(range(3), "blocks", total=3)) == [0, 1, 2]
    assert caplog.messages == []
