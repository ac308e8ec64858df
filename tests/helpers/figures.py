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
    """Every text that a drawn figure shows."""
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def overlapping(texts):
    """The pairs of texts of a drawn figure that touch each other; leaders to a text are no part of it."""
    return [
        (one.get_text(), two.get_text())
        for one, two in combinations(texts, 2)
        if Text.get_window_extent(one).overlaps(Text.get_window_extent(two))
    ]
