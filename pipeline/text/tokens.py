"""Turn text into token batches, exactly as the Sentence Transformer tokenizes.

Sentence Transformers puts the prompt and, for some models, a chat template around a text, tokenizes
with the model's fast tokenizer and truncates to ``max_seq_length``, special tokens counted in. The
same ``tokenizer.json`` through the ``tokenizers`` library gives the same ids; resolve and validate
check that against ``SentenceTransformer.encode``.
"""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from pipeline.errors import BundleError
from pipeline.text.ragged import Padding, Ragged, TokenBatch, join, pad
from pipeline.text.tokenizer_settings import read_settings
from pipeline.vectors import IntArray

__all__ = ["Ragged", "TokenBatch", "TokenRow", "Tokenizer"]

log = logging.getLogger(__name__)


FIRST_LOOK = 16
"""Characters a token that are read of a long text at first; English has 4 to 5."""

_PLACEHOLDER = re.compile(r"\[.+\]|<.+>")

LONGEST = 1 << 20
"""Characters that are read of a text in which no word has ended behind the limit by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One text's token ids and token type ids, special tokens included, no padding."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


class Tokenizer:
    """The tokenizer of a Sentence Transformer, read from its files; thread-safe."""

    def __init__(self, directory: Path, *, max_length: int) -> None:
        """Read ``tokenizer.json`` and ``tokenizer_config.json`` from ``directory``.

        Raises:
            BundleError: a file is missing or is not a tokenizer.
        """
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
            path = directory / "tokenizer_config.json"
            settings = read_settings(path.read_text("utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(
                f"cannot read the tokenizer {path}: {error}; publish the bundle again"
            ) from error
        self.max_length = max_length
        self.padding_side = settings.padding_side
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = settings.split_special_tokens
        side = settings.truncation_side
        self._tokenizer.enable_truncation(max_length, direction=side)
        cut = side == "right"  # cut on the left, a text's end is what counts
        self.longest = LONGEST if cut else sys.maxsize - 1
        self._first_look = max(4096, FIRST_LOOK * max_length) if cut else self.longest
        pad = settings.pad_token
        self.pad_id = (self._tokenizer.token_to_id(pad) or 0) if pad else 0
        self.pad_type_id = settings.pad_type_id
        self._wrapping = settings.wrapping
        self._embedding_rows = settings.embedding_rows
        # A template gives each of its pieces one type: if all of "a" have the same, all texts do.
        types = set(self._tokenizer.encode("a").type_ids)
        self.padding = Padding(
            token=self.pad_id,
            type_id=self.pad_type_id,
            left=self.padding_side == "left",
            only_type=types.pop() if len(types) == 1 else None,
            limit=max_length,
        )

    def ordinary_ids(self) -> IntArray:
        """Return the ids that text may hold, ascending: no added token, nothing in brackets.

        Brackets mark the tokens that stand for something else (``[unused7]``, ``<0x0A>``).
        """
        added = self._tokenizer.get_added_tokens_decoder()
        rows = self._embedding_rows or sys.maxsize
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        ordinary = {
            i for token, i in vocabulary.items() if i < rows and not _PLACEHOLDER.fullmatch(token)
        }
        return np.array(sorted(ordinary - added.keys()), np.int64)

    def rows(self, texts: Sequence[str], prompts: str | Sequence[str] = "") -> list[TokenRow]:
        """Tokenize, each text for itself, with one prompt before all or one before each.

        Of a long text only its beginning is read, as far as the model's limit takes it, so that a
        hundred megabytes cost what a page does. A text in which no word has ended behind the limit
        in its first ``LONGEST`` characters (only whitespace, one endless word) ends there, with a
        warning.
        """
        texts = self._trimmed(texts)
        if self._all_short(texts):
            whole = self._around(texts, prompts)
            return list(map(self._row, self._tokenizer.encode_batch_fast(whole)))
        size = self._first_look
        heads = [prompts] * len(texts) if isinstance(prompts, str) else prompts
        rows: dict[int, TokenRow] = {}
        pending = list(range(len(texts)))
        while pending:
            read = self._around([texts[i] for i in pending], [heads[i] for i in pending], size)
            encodings = self._tokenizer.encode_batch(read)
            for i, text, encoding in zip(pending, read, encodings, strict=True):
                if len(texts[i]) <= size or self._is_settled(encoding, len(text)):
                    rows[i] = self._row(encoding)
                elif size >= self.longest:
                    log.warning("a text of over %d characters ends there: one endless word", size)
                    rows[i] = self._row(encoding)
            pending = [i for i in pending if i not in rows]
            size = min(4 * size, self.longest)
        return [rows[i] for i in range(len(texts))]

    def ragged(self, texts: Sequence[str], prompt: str = "") -> Ragged:
        """Tokenize as ``rows`` does, with a fraction of its objects: for many texts at once."""
        texts = self._trimmed(texts)
        if not self._all_short(texts):
            return _join(self.rows(texts, prompt))
        encodings = self._tokenizer.encode_batch_fast(self._around(texts, prompt))
        known = self.padding.only_type is not None
        types = None if known else [e.type_ids for e in encodings]
        return join([self._ended(e.ids) for e in encodings], types)

    def refused(self, ragged: Ragged) -> tuple[int, str] | None:
        """Return the first text that the model has no vector for, and why, or None."""
        few = [int(i) for i in np.flatnonzero(ragged.lengths == 0)[:1]]
        if self._embedding_rows is not None:
            places = np.flatnonzero(ragged.ids >= self._embedding_rows)[:1]
            few += [int(i) - 1 for i in np.searchsorted(ragged.starts, places, "right")]
        if not few:
            return None
        first = min(few)
        start = ragged.starts[first]
        return first, str(self.refusal(ragged.ids[start : start + ragged.lengths[first]].tolist()))

    def refusal(self, ids: Sequence[int]) -> str | None:
        """Return why the model has no vector for a text that became these ids, or None."""
        if not ids:
            return "has no tokens, and this tokenizer adds none: the model has no vector for it"
        if self._embedding_rows is None or max(ids) < self._embedding_rows:
            return None
        return (
            f"holds {self._tokenizer.id_to_token(max(ids))!r}, token {max(ids)}, and the model has "
            f"embeddings for {self._embedding_rows} tokens: leave it out of the text"
        )

    def _all_short(self, texts: Sequence[str]) -> bool:
        return max(map(len, texts), default=0) <= self._first_look

    def _trimmed(self, texts: Sequence[str]) -> Sequence[str]:
        trims = self._wrapping is not None and self._wrapping.trims
        return [text.strip() for text in texts] if trims else texts

    def _around(
        self, texts: Sequence[str], prompts: str | Sequence[str], size: int | None = None
    ) -> list[str]:
        """Return the texts, cut to ``size``, with what the model puts before and behind them."""
        if self._wrapping is None:
            if not prompts and size is None:
                return list(texts)
            heads: Iterator[str] = repeat(prompts) if isinstance(prompts, str) else iter(prompts)
            return [head + text[:size] for head, text in zip(heads, texts, strict=False)]
        wrap, after = self._wrapping.head, self._wrapping.after
        heads = repeat(wrap(prompts)) if isinstance(prompts, str) else map(wrap, prompts)
        return [
            f"{head}{text}{after}" if size is None or len(text) <= size else head + text[:size]
            for head, text in zip(heads, texts, strict=False)
        ]

    def _is_settled(self, encoding: Encoding, size: int) -> bool:
        """Whether what follows the first ``size`` characters cannot change the tokens.

        The word of the last token kept has to end among them: tokenizers split words for
        themselves, but within one the end may decide how it begins (Unigram: "-----"). A normalizer
        or a pattern between words looks a few characters ahead, not a quarter of thousands.
        """
        if len(encoding.ids) < self.max_length:
            return False
        places = list(zip(encoding.word_ids, encoding.offsets, strict=True))
        word = max((word for word, _ in places if word is not None), default=None)
        last = max((end for _, (_, end) in places), default=0)
        for part in encoding.overflowing:
            for other, (_, end) in zip(part.word_ids, part.offsets, strict=True):
                if other is not None and other != word:
                    return 4 * last <= 3 * size
                last = max(last, end)
        return False

    def _row(self, encoding: Encoding) -> TokenRow:
        return TokenRow(ids=tuple(self._ended(encoding.ids)), type_ids=tuple(encoding.type_ids))

    def _ended(self, ids: Sequence[int]) -> Sequence[int]:
        return ids if self._wrapping is None else self._wrapping.ended(ids, self.max_length)

    def pad(
        self, rows: Sequence[TokenRow], *, length: int | None = None, bucketed: bool = False
    ) -> TokenBatch:
        """Pad rows to ``length`` tokens, or to the longest row, or to that one's ``bucket``."""
        width = max(len(row.ids) for row in rows) if length is None else length
        everything = np.arange(len(rows))
        return pad(_join(rows), everything, self._width(width, bucketed), self.padding)

    def pad_some(
        self, ragged: Ragged, indices: Sequence[int], *, bucketed: bool = False
    ) -> TokenBatch:
        """Pad the texts with these indices, in their order, as ``pad`` does rows."""
        chosen = np.asarray(indices)
        width = int(ragged.lengths[chosen].max())
        return pad(ragged, chosen, self._width(width, bucketed), self.padding)

    def _width(self, longest: int, bucketed: bool) -> int:
        return max(longest, min(bucket(longest), self.max_length)) if bucketed else longest


def _join(rows: Sequence[TokenRow]) -> Ragged:
    return join([row.ids for row in rows], [row.type_ids for row in rows])


SHORTEST = 0.75
"""A batch at least a quarter full takes no row shorter than this share of its longest."""


def by_length(
    rows: Sequence[TokenRow], batch_size: int | None, max_tokens: int | None = None
) -> list[list[int]]:
    """Group row indices into batches of similar length; ``group_lengths`` says how."""
    return group_lengths([len(row.ids) for row in rows], batch_size, max_tokens)


def group_lengths(
    lengths: Sequence[int] | IntArray, batch_size: int | None, max_tokens: int | None = None
) -> list[list[int]]:
    """Group indices into batches of similar length, longest first, at most ``batch_size`` each.

    A batch padded to its longest row holds at most ``max_tokens`` tokens (but at least one row);
    with ``batch_size`` None that is the only bound. Lengths differ most among the longest texts;
    batches end early there, or most of what is computed (and timed) would be padding.
    """
    sizes = np.asarray(lengths, np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = room = 0
    for i, length in zip(order.tolist(), sizes[order].tolist(), strict=True):
        few = room if batch_size is None else batch_size
        uneven = 4 * len(batch) >= few and length < SHORTEST * longest
        if len(batch) == room or uneven:
            longest = length
            room = _room(length, batch_size, max_tokens, len(sizes))
            batch = [i]
            batches.append(batch)
        else:
            batch.append(i)
    return batches


def _room(length: int, batch_size: int | None, max_tokens: int | None, rows: int) -> int:
    """Return how many rows of at most ``length`` tokens make a batch."""
    most = rows if batch_size is None else batch_size
    return most if max_tokens is None else max(1, min(most, max_tokens // max(length, 1)))


def bucket(size: int) -> int:
    """Return the next size of few: all up to 16, then eight between powers of two.

    Padding to it costs at most an eighth, 3 % on average, and leaves 48 sizes up to 256.
    """
    step = 1 << max(0, (size - 1).bit_length() - 4)
    return -(-size // step) * step


def by_exact_length(
    rows: Sequence[TokenRow], *, max_tokens: int, max_batch: int = 64
) -> list[list[int]]:
    """Group row indices into batches of one length each, so that no batch has padding.

    A batch holds at most ``max_batch`` rows and ``max_tokens`` tokens (but at least one row).
    """
    lengths: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        lengths.setdefault(len(row.ids), []).append(i)
    batches = []
    for length, indices in sorted(lengths.items()):
        size = max(1, min(max_batch, max_tokens // max(length, 1)))
        batches += [indices[i : i + size] for i in range(0, len(indices), size)]
    return batches
