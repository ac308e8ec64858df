"""Figures as tests look at them."""

from io import BytesIO
from itertools import combinations

from matplotlib.text import Text


def drawn(figure):
    """The panels of a figure that can be written as a PNG."""
    image = BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")
    return figure.axes


def texts_of(figure):
    """Every text that a drawn figure shows: not the labels of ticks beyond an axis's ends."""
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = [
            tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if not low <= tick.get_loc() <= high
        ]
        beyond |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and text not in beyond]


def overlapping(texts):
    """The pairs of texts of a drawn figure that touch each other; leaders to a text are no part of it."""
    return [
        (one.get_text(), two.get_text())
        for one, two in combinations(texts, 2)
        if Text.get_window_extent(one).overlaps(Text.get_window_extent(two))
    ]
