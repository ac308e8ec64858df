"""Figures as tests look at them."""

from itertools import combinations

from matplotlib.text import Text


def drawn(figure):
    """The panels of a figure that was drawn, so that everything has its place."""
    figure.draw_without_rendering()
    return figure.axes


def texts_of(figure):
    """Every text that a drawn figure shows; ticks beyond the limits of their axis have labels that it does not."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    texts = (text for text in figure.findobj(Text) if text not in hidden)
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def overlapping(texts):
    """The pairs of texts of a drawn figure that touch each other; leaders to a text are no part of it."""
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts]
    return [(one, two) for (one, box), (two, beside) in combinations(boxes, 2) if box.overlaps(beside)]
