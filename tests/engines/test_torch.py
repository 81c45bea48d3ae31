"""The reference."""

from pathlib import Path

import pytest

from pipeline.engines.torch import load_sentence_transformer


def test_loading_draws_no_bars(tiny_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """transformers 5 draws one for every load, between the lines of the log."""
    load_sentence_transformer(tiny_dir, device="cpu", trust_remote_code=False)
    assert capfd.readouterr() == ("", "")
