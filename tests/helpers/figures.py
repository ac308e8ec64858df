"""Figures as tests look at them."""

from io import BytesIO


def drawn(figure):
    """The panels of a figure that can be written as a PNG."""
    image = BytesIO()
    figure.savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")
    return figure.axes
