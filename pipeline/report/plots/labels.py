"""Place a plot's labels so that none covers a point or another label."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

Box = tuple[float, float, float, float]
"""Left, bottom, right and top, in one unit for all."""

_GAP = 7.0


def place(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    frame: Box,
) -> list[Box]:
    """Return each label's box: the first place around its anchor that is free.

    Where there is none, the nearest free place in the frame, which a line leads to; where there is
    none either, the freest of all.

    Args:
        anchors: what each label names.
        sizes: width and height of each label.
        taken: what may not be covered.
        frame: what may not be left.
    """
    occupied = list(taken)
    placed = []
    for anchor, size in zip(anchors, sizes, strict=True):
        boxes = _places(anchor, size)
        clear = [box for box in boxes if _names(box, anchor, anchors)]
        box = freest(clear or boxes, occupied, frame)
        if _cost(box, occupied, frame):
            box = freest([*_anywhere(anchor, size, frame), box], occupied, frame)
        placed.append(box)
        occupied.append(box)
    return placed


def around(point: tuple[float, float]) -> Box:
    """Return the box that a point's marker covers."""
    x, y = point
    return (x - 4, y - 4, x + 4, y + 4)


def freest(boxes: Sequence[Box], occupied: Sequence[Box], frame: Box) -> Box:
    """Return the box that covers and leaves least; of equals the first."""
    return min(boxes, key=lambda box: _cost(box, occupied, frame))


def _places(anchor: tuple[float, float], size: tuple[float, float]) -> list[Box]:
    """List places for a label, the nearest first: beside, above and below, then further off."""
    (x, y), (width, height) = anchor, size
    beside = [(x + _GAP, y - height / 2), (x - _GAP - width, y - height / 2)]
    rows = [
        bottom
        for step in range(4)
        for bottom in (y + _GAP + step * height, y - _GAP - (step + 1) * height)
    ]
    columns = [x - width / 2, x, x - width]
    corners = beside + [(left, bottom) for bottom, left in product(rows, columns)]
    return [(left, bottom, left + width, bottom + height) for left, bottom in corners]


def _anywhere(anchor: tuple[float, float], size: tuple[float, float], frame: Box) -> list[Box]:
    """List places all over the frame, the nearest first."""
    (x, y), (width, height) = anchor, size
    lefts = np.arange(frame[0], frame[2] - width + 0.01, _GAP)
    bottoms = np.arange(frame[1], frame[3] - height + 0.01, _GAP)
    boxes = [
        (float(a), float(b), float(a) + width, float(b) + height) for a in lefts for b in bottoms
    ]
    return sorted(boxes, key=lambda box: _distance(box, (x, y)))


def _names(box: Box, anchor: tuple[float, float], anchors: Sequence[tuple[float, float]]) -> bool:
    """Return whether no other anchor is nearer to the label than its own."""
    return all(_distance(box, anchor) <= _distance(box, other) for other in anchors)


def _distance(box: Box, point: tuple[float, float]) -> float:
    across = max(box[0] - point[0], point[0] - box[2], 0)
    along = max(box[1] - point[1], point[1] - box[3], 0)
    return math.hypot(across, along)


def _cost(box: Box, occupied: Sequence[Box], frame: Box) -> float:
    """Return the area that is covered or outside."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    outside = area - _overlap(box, frame)
    return round(2 * outside + sum(_overlap(box, other) for other in occupied), 6)


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
