from helpers.figures import drawn
from lightning_lottery.figures.loss_probe import loss_by_steps_and_changes


def test_a_line_of_losses_an_upright_for_what_masks_did_and_the_sharpness_where_it_was_measured():
    before, after, changes = [1.0, 0.9, 0.8], [1.2, 0.9, 0.8], [0.5, 0, 0]
    figure = loss_by_steps_and_changes([5, 6, 7], before, after, changes, [None, 2.0, None])
    loss, churn, sharp = drawn(figure)
    assert loss.lines[0].get_ydata().tolist() == [1.2, 0.9, 0.8]
    assert loss.collections[0].get_segments()[0].tolist() == [[5, 1.0], [5, 1.2]]
    assert churn.collections[0].get_segments()[0].tolist() == [[5, 0], [5, 0.5]]
    assert sharp.lines[0].get_xdata().tolist() == [6] and sharp.get_xlabel() == "optimizer step"


def test_without_sharpness_there_are_two_panels_and_one_step_is_enough():
    assert len(drawn(loss_by_steps_and_changes([5], [1.0], [1.2], [0.5], [None]))) == 2
