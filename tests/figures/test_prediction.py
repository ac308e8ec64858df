import pytest

from lightning_lottery.figures.prediction import barrier_and_deficit

POINTS = [(parent, step, parent / 50 + 1 / (step + 1), parent / 100) for parent in range(4) for step in (0, 10, 90)]


@pytest.mark.parametrize("floor", [None, 0.008])
def test_barriers_stand_against_deficits_and_ranks_beside_them(floor):
    figure = barrier_and_deficit(POINTS, "synflow", "rho 0.50, p 0.01", 0.01, floor)
    axes, ranks = figure.axes
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[:3] == ["step 0", "step 10", "step 90"] and ("what samples alone show" in words) == (floor is not None)
    assert ranks.get_title() == "rho 0.50, p 0.01"
    assert len([line for line in axes.lines if len(line.get_xdata()) == 3]) == 4  # one for each parent
    drawn = sorted(point for line in ranks.lines for point in zip(*line.get_data(), strict=True))
    assert drawn == sorted((rank, rank) for rank in range(1, 5) for _ in range(3))
