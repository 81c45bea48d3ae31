"""Encode texts: check what is asked for here, and have ``feed`` do the work."""

from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import nullcontext
from typing import Any

import numpy.typing as npt

from pipeline.bundle.ranges import KnownRanges
from pipeline.engines import Encoder
from pipeline.engines.forking import own_process, require_own_process
from pipeline.runtime.feed import Advance, Feed
from pipeline.runtime.output import EmbeddingPrecision, OutputForm, make_output_form
from pipeline.runtime.windows import Window, check_text, gather, windows
from pipeline.text.ragged import Ragged
from pipeline.text.tokens import Tokenizer
from pipeline.vectors import FloatArray


class TextEncoder:
    """Text to embeddings: a tokenizer, an engine, and the model's prompts. Thread-safe.

    ``truncate_dim`` keeps an embedding's first dimensions, ``normalize_embeddings`` scales what is
    left to length 1, ``precision`` is float32, float16, int8, uint8, binary or ubinary, all as in
    Sentence Transformers, or int8_dot, whose levels an index may compare as they are. int8, uint8
    and int8_dot take their steps from ``ranges`` ``[2, dim]``, the smallest and largest value of
    each dimension; without them from the bundle's (``embedding_ranges``), so that a text has one
    vector whatever it is encoded with. Where a bundle of before has none, ``encode`` takes them
    from the embeddings themselves.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Encoder,
        *,
        dimension: int,
        prompts: dict[str, str],
        default_prompt: str | None,
        embedding_ranges: KnownRanges | None = None,
    ) -> None:
        """Put the parts together; ``pipeline.runtime.load`` does so for a bundle."""
        self.tokenizer = tokenizer
        self.engine = engine
        self.dimension = dimension
        self.prompts = prompts
        self.default_prompt = default_prompt
        self.embedding_ranges = embedding_ranges
        self._process = own_process(self)

    def __getstate__(self) -> object:
        """Refuse to be pickled or copied: an engine belongs to its process."""
        raise TypeError(
            "an encoder cannot be pickled or copied, its engine belongs to this process: send the "
            "bundle's directory, and load it there"
        )

    def encode(
        self,
        texts: Iterable[str] | str,
        batch_size: int | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: EmbeddingPrecision = "float32",
        ranges: npt.NDArray[Any] | None = None,
        show_progress_bar: bool = False,
    ) -> npt.NDArray[Any]:
        """Return one embedding a text, float32 ``[n, dim]`` in the order given (a str: ``[dim]``).

        Tokenizes, truncates and prompts as the Sentence Transformer does. ``batch_size`` None lets
        the engine say how many tokens it takes at once; a number is the most texts, split where the
        engine is faster on fewer. Batches are sorted by length within a window, so padding stays
        small; a text's vector does not depend on its batch. Of more texts than a window the next
        are read and tokenized while one is computed; beside the result, memory holds a few windows,
        however long ``texts`` is. The progress bar is shown on a terminal only.

        Raises:
            ValueError: ``batch_size`` below 1, a prompt name or dimension that the model does not
                have, an unknown precision, ranges of another shape, or a text that is not Unicode.
            TypeError: something in ``texts`` is not a str.
            RuntimeError: this process was forked after the encoder was loaded.
        """
        form = self._form(truncate_dim, normalize_embeddings, precision, ranges)
        only = isinstance(texts, str)
        several = [texts] if isinstance(texts, str) else texts
        if isinstance(several, list | tuple):  # before hours are spent on the first ones
            for index, text in enumerate(several):
                check_text(text, index)
        count = len(several) if isinstance(several, Sized) else None
        prefix = self._prompt(prompt_name, prompt)
        with _progress(count) if show_progress_bar else nullcontext() as advance:
            blocks = self._blocks(several, batch_size, prefix, advance)
            if form.needs_all:
                result = form.apply(gather(blocks, count))
            else:
                result = gather(map(form.apply, blocks), count)
        return result[0] if only else result

    def encode_iter(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: EmbeddingPrecision = "float32",
        ranges: npt.NDArray[Any] | None = None,
    ) -> Iterator[npt.NDArray[Any]]:
        """Yield one embedding ``[dim]`` a text, in order; ``texts`` is read a few windows ahead.

        Takes and raises what ``encode`` does; int8 and uint8 need ``ranges`` here.
        """
        blocks = self.encode_blocks(
            texts,
            batch_size,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            ranges=ranges,
        )
        return (vector for block in blocks for vector in block)

    def encode_blocks(
        self,
        texts: Iterable[str],
        batch_size: int | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: EmbeddingPrecision = "float32",
        ranges: npt.NDArray[Any] | None = None,
    ) -> Generator[npt.NDArray[Any], None, None]:
        """Yield the embeddings as ``encode_iter`` does, some thousand ``[n, dim]`` at a time.

        Without a text, one block of none.
        """
        form = self._form(truncate_dim, normalize_embeddings, precision, ranges)
        if form.needs_all:
            raise ValueError(
                f"precision {precision!r} in a stream: give ranges, the smallest and largest value "
                f"of each dimension, [2, {form.dimension}], of embeddings made before"
            )
        if isinstance(texts, str):
            raise TypeError("expected an iterable of texts, got one str; use encode")
        blocks = self._blocks(texts, batch_size, self._prompt(prompt_name, prompt))
        return (form.apply(block) for block in blocks)

    def encode_query(
        self,
        texts: Iterable[str] | str,
        batch_size: int | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: EmbeddingPrecision = "float32",
        ranges: npt.NDArray[Any] | None = None,
        show_progress_bar: bool = False,
    ) -> npt.NDArray[Any]:
        """Encode with the prompt named ``query``, or none, where no other is given."""
        return self.encode(
            texts,
            batch_size,
            prompt_name="query" if prompt_name is None and prompt is None else prompt_name,
            prompt=prompt,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            ranges=ranges,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: Iterable[str] | str,
        batch_size: int | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        precision: EmbeddingPrecision = "float32",
        ranges: npt.NDArray[Any] | None = None,
        show_progress_bar: bool = False,
    ) -> npt.NDArray[Any]:
        """Encode with the prompt named ``document``, or none, where no other is given.

        Sentence Transformers names ``passage`` and ``corpus`` as well, but its own models always
        have a ``document``, which may be empty, and that one is taken.
        """
        return self.encode(
            texts,
            batch_size,
            prompt_name="document" if prompt_name is None and prompt is None else prompt_name,
            prompt=prompt,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            precision=precision,
            ranges=ranges,
            show_progress_bar=show_progress_bar,
        )

    def tokenize_one(
        self, text: str, prompt_name: str | None = None, prompt: str | None = None
    ) -> Ragged:
        """Return a text's tokens as ``encode`` makes them; raises what it does."""
        require_own_process(self._process)
        (window,) = windows(iter([text]), None, self.tokenizer.longest)
        return self._tokenize(window, self._prompt(prompt_name, prompt))

    def _form(
        self,
        truncate_dim: int | None,
        normalize: bool,
        precision: EmbeddingPrecision,
        ranges: npt.NDArray[Any] | None,
    ) -> OutputForm:
        known = self.embedding_ranges
        return make_output_form(self.dimension, truncate_dim, normalize, precision, ranges, known)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        """Resolve the prompt in Sentence Transformers' order: text, name, the model's default."""
        if prompt is not None:
            return prompt
        name = name if name is not None else self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts and name not in ("query", "document"):
            known = ", ".join(sorted(self.prompts)) or "none"
            raise ValueError(f"prompt name {name!r}: the model has {known}")
        return self.prompts.get(name, "")

    def _blocks(
        self,
        texts: Iterable[str],
        batch_size: int | None,
        prefix: str,
        advance: Advance | None = None,
    ) -> Iterator[FloatArray]:
        """Return the embeddings window by window, at least one block; checks before it starts."""
        require_own_process(self._process)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer or None, got {batch_size}")
        feed = Feed(
            tokenizer=self.tokenizer,
            engine=self.engine,
            dimension=self.dimension,
            batch_size=batch_size,
            tokenize=lambda window: self._tokenize(window, prefix),
            advance=advance,
        )
        return feed.blocks(windows(iter(texts), batch_size, self.tokenizer.longest))

    def _tokenize(self, window: Window, prefix: str) -> Ragged:
        try:
            ragged = self.tokenizer.ragged(window.texts, prefix)
        except TypeError:  # the words that the tokenizers library has for a lone surrogate
            for index, text in enumerate(window.texts, window.start):
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise ValueError(
                        f"text {index} is not Unicode: a lone surrogate, "
                        f"{text[error.start]!a}; decode it with errors='replace'"
                    ) from error
            raise
        refused = self.tokenizer.refused(ragged)
        if refused is not None:
            raise ValueError(f"text {window.start + refused[0]} {refused[1]}")
        return ragged


def _progress(count: int | None) -> Any:
    from pipeline.progress import counting

    return counting("encode", total=count)
