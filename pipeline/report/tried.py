"""Show what ``precision=auto`` tried: a row for each precision, and why it won or lost."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import numbers

HEAD = ("precision", "outcome", "mean cosine", "speed", "why")

Entry = Mapping[str, Any]


def tried_title(auto: Entry) -> str:
    """Return what the precisions were compared by."""
    if auto["measured"]:
        return f"tried for {auto['target']}, speed measured there over PyTorch fp32's"
    return (
        f"tried for {auto['target']}, which is not here: predicted time of a thousand texts in "
        f"batches of {auto['batch']}, by data sheet; nothing of it was measured"
    )


def tried_rows(auto: Entry) -> list[tuple[str, ...]]:
    """Return the cells of each row below ``HEAD``."""
    return [
        (
            row["precision"],
            row["outcome"],
            numbers.cosine(row["cosine_mean"]),
            _speed(row["speed"]),
            row["why"],
        )
        for row in auto["tried"]
    ]


def chosen_words(data: Entry) -> str:
    """Return what was chosen for what, a sentence before the others; empty where nothing was."""
    auto = data.get("auto")
    if auto is None or auto["chosen"] is None:
        return ""
    of = f"{auto['chosen']} is the choice for {auto['target']} among {len(auto['tried'])}"
    return f"{of}. " if auto["measured"] else f"{of}, by prediction: measure it there. "


def _speed(speed: Entry | None) -> str:
    if speed is None:
        return numbers.NOT_MEASURED
    if speed["measured"]:
        of = speed["speedup"]
        ratio = f"{numbers.ratio(of['median'])} ({numbers.span(of['ci95'])})"
        return f"{ratio}, {speed['artifact']}"
    time = numbers.milliseconds(speed["predicted_ms_a_thousand_texts"])
    return f"predicted {time}, {speed['artifact']}"
