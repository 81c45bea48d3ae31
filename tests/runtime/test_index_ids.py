"""Ids of an index: whole numbers are keys, other text is text, what names nothing is refused."""

import pytest

from pipeline.errors import EncodeError
from pipeline.runtime.index_ids import IDS, Ids


@pytest.mark.parametrize("values", [[7, 0], ["7", "0"], [2**63 - 1, "1"]])
def test_whole_numbers_are_keys(values: list[object]) -> None:
    ids = Ids()
    assert ids.take({IDS: values}, len(values)).tolist() == [int(str(each)) for each in values]
    assert ids.texts == []


@pytest.mark.parametrize(
    "value",
    [
        "007",
        "18446744073709551616",
        2**63,
        "9" * 5000,
        "\u0661\u0662",
        "-5",
        -5,
        "1.5",
        1.5,
        "NaN",
        "",
    ],
)
def test_other_numbers_are_text(value: object) -> None:
    """Larger than a key, or written so that the number would not give the text back."""
    ids = Ids()
    assert ids.take({IDS: [value]}, 1).tolist() == [0]
    assert ids.texts == [str(value)]


@pytest.mark.parametrize("value", [None, True, {"a": 1}, [1], b"a"])
def test_what_names_nothing_is_refused_by_row(value: object) -> None:
    ids = Ids()
    ids.take({IDS: ["a", "b"]}, 2)
    with pytest.raises(EncodeError, match=r"^row 4: its id is .*, expected text or a number$"):
        ids.take({IDS: ["c", value]}, 2)


def test_a_number_too_large_behind_keys_is_named() -> None:
    ids = Ids()
    ids.take({IDS: [1]}, 1)
    with pytest.raises(EncodeError, match="id '18446744073709551616': the ids before are whole"):
        ids.take({IDS: ["18446744073709551616"]}, 1)
