"""Tokenize text as a resolved model reads it: with its tokenizer, behind its default prompt."""

from collections.abc import Sequence

from pipeline.contracts import SourceModel
from pipeline.text.tokens import Tokenizer, TokenRow


def open_tokenizer(source: SourceModel) -> Tokenizer:
    """Open a model's tokenizer, which truncates where the model does.

    Raises:
        BundleError: a file is missing or is not a tokenizer.
    """
    return Tokenizer(source.assets, max_length=source.max_length)


def tokenize(source: SourceModel, tokenizer: Tokenizer, texts: Sequence[str]) -> list[TokenRow]:
    """Return each text's tokens behind the model's default prompt.

    Texts that the model has no vector for are left out: a graph is neither calibrated nor checked
    on them, and ``encode`` refuses them.
    """
    rows = tokenizer.rows(texts, source.prefix)
    return [row for row in rows if tokenizer.refusal(row.ids) is None]
