"""Name the rows of an index: whole numbers are its keys, other ids go into a file beside it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import EncodeError
from pipeline.files import write_text

IDS = "id"
"""The kept column of the ids, whatever its name is in the input."""

_LARGEST = 2**63


class Ids:
    """Ids as they come: whole numbers are keys; of other text the row's number is, kept beside."""

    def __init__(self) -> None:
        """Nothing has come."""
        self.texts: list[str] = []
        self._numbers: list[npt.NDArray[np.int64]] = []
        self._whole = False
        self._rows = 0

    def take(self, kept: Mapping[str, Any], count: int) -> npt.NDArray[np.int64]:
        """Return the next ``count`` rows' keys.

        Raises:
            EncodeError: some ids are whole numbers and some are not, or one names nothing.
        """
        rows = np.arange(self._rows, self._rows + count, dtype=np.int64)
        if IDS not in kept:
            self._rows += count
            return rows
        values = kept[IDS].to_pylist() if hasattr(kept[IDS], "to_pylist") else list(kept[IDS])
        for row, value in enumerate(values, self._rows + 1):
            if value is None or isinstance(value, bool | dict | list | bytes):
                raise EncodeError(f"row {row}: its id is {value!r}, expected text or a number")
        if not self._rows:
            self._whole = all(_is_whole(value) for value in values)
        self._rows += count
        if not self._whole:
            self.texts += [str(value) for value in values]
            return rows
        for value in values:
            if not _is_whole(value):
                raise EncodeError(
                    f"id {value!r}: the ids before are whole numbers from 0; make all of them so, "
                    "or all of them text"
                )
        numbers = np.array([int(value) for value in values], np.int64)
        self._numbers.append(numbers)
        return numbers

    def check(self) -> None:
        """Refuse ids that stand twice.

        Raises:
            EncodeError: one does.
        """
        every: Sequence[Any] = (
            np.concatenate(self._numbers).tolist() if self._numbers else self.texts
        )
        if len(set(every)) < len(every):
            ((twice, _),) = Counter(every).most_common(1)
            raise EncodeError(f"id {twice!r} stands twice; ids name one text each")

    def write_beside(self, output: Path) -> None:
        """Write ids that are no keys, a JSON list in the order of the rows."""
        path = output.with_name(f"{output.name}.ids.json")
        if self.texts:
            write_text(path, json.dumps(self.texts, ensure_ascii=False) + "\n")
        else:
            path.unlink(missing_ok=True)


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(_LARGEST))
        return digits and str(int(value)) == value and int(value) < _LARGEST
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
