"""Turn Matplotlib figures into inline SVG: text stays text, colours follow the page."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch
from matplotlib.transforms import Affine2D, ScaledTranslation

from pipeline.printable import printable

# 72 units an inch, about a CSS pixel each on a phone: the font size below is what a reader sees.
WIDTH = 340
FONT = 11.5
LETTER = 0.56 * FONT
"""About the width of a letter: enough to keep labels apart."""
LONGEST = 32
"""Letters of a label beside an axis; a longer one would leave no room for what is drawn."""
NARROWEST = 5e-5
"""The least range of cosines that is drawn: those that differ by less look the same."""

# Stand-ins that matplotlib accepts, and the page's colours they become.
INK, SOFT, LINE, THIS, OTHER, BAD = (f"#0a0b{shade:02x}" for shade in range(6))
_COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    THIS: "var(--this)",
    OTHER: "var(--other)",
    BAD: "var(--bad)",
}
_METADATA = ("Creator", "Date", "Format", "Type")
# Many figures share one page: rules and ids of one would be another's. Nothing is drawn outside
# the axes, so nothing has to be clipped; the typeface is the page's, which every device has.
_UNWANTED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<defs>.*?</defs>\s*",
        r' clip-path="[^"]*"',
        r' id="[^"]*"',
        r" ?font-family: [^;]*;",
    )
)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": FONT,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "text.color": INK,
    "lines.solid_capstyle": "butt",
    "text.parse_math": False,  # a label with two dollar signs is no formula
}


@contextmanager
def drawing(
    height: float, *, left: float = 58, right: float = 12, bottom: float = 42, top: float = 10
) -> Iterator[Axes]:
    """Give axes on a figure of ``WIDTH`` by ``height`` with margins, all in 1/72 inch.

    Drawing happens inside the context: it holds the style. The user's matplotlibrc has no part.
    """
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(figure)
        box = (
            left / WIDTH,
            bottom / height,
            1 - (left + right) / WIDTH,
            1 - (bottom + top) / height,
        )
        yield figure.add_axes(box, facecolor="none")


def shortened(label: str) -> str:
    """Return a label that fits beside an axis: its beginning and its end, on one line."""
    words = " ".join(printable(label).split())
    half = (LONGEST - 1) // 2
    return words if len(words) <= LONGEST else f"{words[:half]}…{words[-half:]}"


def mark(axes: Axes, x: float, y: float, shape: str, colour: str, size: float = 9) -> None:
    """Draw a marker as a path of its own; matplotlib's are references, and none leaves the page."""
    style = MarkerStyle(shape)
    path = style.get_path().transformed(style.get_transform())
    to = ScaledTranslation(x, y, axes.transData)  # type: ignore[arg-type]  # any transform will do
    place = Affine2D().scale(size) + to
    axes.add_artist(PathPatch(path, transform=place, color=colour, linewidth=0, zorder=3))


def to_svg(axes: Axes, name: str, title: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element that fills its container's width.

    ``name`` is unique on the page. To be called inside ``drawing``.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The reader's own typeface is what draws.
        warnings.filterwarnings("ignore", "(?s)(Glyph|Matplotlib currently)", UserWarning)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(_METADATA))
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    for unwanted in _UNWANTED:
        body = unwanted.sub("", body)
    for stand_in, colour in _COLOURS.items():
        body = body.replace(stand_in, colour)
    _, _, width, height = figure.bbox.bounds
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>{body.strip()}'
    )
