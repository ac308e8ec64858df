import math

import pytest

from helpers.figures import drawn
from lightning_lottery.figures.pruning import pruning_over_steps, shortened

VIT = [
    "model.conv_proj.weight",
    *(
        f"model.encoder.layers.encoder_layer_{block}.{part}"
        for block in range(12)
        for part in (
            "ln_1.weight",
            "self_attention.in_proj_weight",
            "self_attention.out_proj.weight",
            "ln_2.weight",
            "mlp.linear_1.weight",
            "mlp.linear_2.weight",
        )
    ),
]


def picture(names=("net.0.weight", "net.2.weight"), **more):
    layers = {name: [0.0, 0.25, 0.5 + 0.5 * number / len(names)] for number, name in enumerate(names)}
    arguments = {
        "steps": [0, 10, 30],
        "layers": layers,
        "target": [0.0, 0.25, 0.75],
        "achieved": [0.0, 0.25, 0.7],
        "loss": [(1, 2.0), (20, 1.0), (40, 0.5)],
        "change": [(10, 0.25), (30, 0.5)],
        "end": 40,
    }
    return pruning_over_steps(**(arguments | more))


def test_cells_are_as_wide_as_masks_stayed_and_coloured_by_what_was_removed():
    heat, sparsity, loss, *_ = drawn(picture())
    (image,) = heat.collections
    assert image.get_array().tolist() == [[0.0, 0.25, 0.5], [0.0, 0.25, 0.75]] and image.get_clim() == (0, 1)
    assert [*image.get_coordinates()[0, :, 0]] == [0, 10, 30, 40]
    assert heat.get_xlim() == sparsity.get_xlim() == loss.get_xlim() == (0, 40)


def test_target_and_achieved_hold_until_the_next_update_and_are_named_by_their_last_values():
    _, sparsity, *_ = drawn(picture())
    asked, achieved = sparsity.lines
    assert [*asked.get_xdata()] == [0, 10, 30, 40] and [*asked.get_ydata()] == [0, 0.25, 0.75, 0.75]
    assert [*achieved.get_ydata()] == [0, 0.25, 0.7, 0.7] and asked.get_drawstyle() == "steps-post"
    assert {text.get_text() for text in sparsity.texts} == {"asked 75 %", "achieved 70 %"}
    _, sparsity, *_ = drawn(picture(achieved=[0.0, 0.25, 0.75]))
    assert [text.get_text() for text in sparsity.texts] == ["achieved 75 %,\nas asked (grey)"]


def test_losses_that_are_not_finite_are_left_out_and_counted_and_a_missing_loss_is_named():
    _, _, loss, *_ = drawn(picture(loss=[(1, math.inf), (2, math.nan), (3, 1.0)]))
    assert loss.texts[0].get_text() == "2 of 3 points of the loss are not finite"
    assert [*map(math.isnan, loss.lines[0].get_ydata())] == [True, True, False]
    _, _, loss, *_ = drawn(picture(loss=[]))
    assert loss.texts[0].get_text() == "no training loss is known"


def test_the_change_of_masks_is_a_bar_for_each_update_and_a_filled_curve_for_many():
    few = drawn(picture())[-2:]
    assert any(len(axes.collections) and len(axes.collections[0].get_paths()) == 2 for axes in few)
    many = [(step, 1 / step) for step in range(1, 400)]
    *_, beside = (axes for axes in drawn(picture(change=many)) if axes.get_ylabel() == "mask change, %")
    assert len(beside.collections) == 1 and not beside.lines


@pytest.mark.parametrize("names", [["w"], VIT, [f"layers.{n}.weight" for n in range(400)]], ids=len)
def test_names_of_layers_lie_in_the_picture_and_touch_neither_each_other_nor_the_panel_however_many(names):
    figure = picture(names)
    heat, *_ = drawn(figure)
    labels = [label for label in heat.get_yticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert len(labels) == len(names) or 20 < len(labels) < 200 < len(names)
    assert all(box.x0 >= 0 and box.x1 <= heat.bbox.x0 for box in boxes)
    lower = boxes[1:]
    assert all(above.y0 >= below.y0 + 0.7 * below.height for above, below in zip(boxes, lower, strict=False))
    ends = [text.get_window_extent() for axes in figure.axes for text in axes.texts if text.get_text()]
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in ends)


def test_layers_are_called_by_what_tells_them_apart_in_their_own_order():
    assert shortened(VIT)[:3] == ["conv_proj", "encoder_layer_0.ln_1", "encoder_layer_0.self_attention.in_proj_weight"]
    assert shortened(VIT)[-1] == "encoder_layer_11.mlp.linear_2" and len({*shortened(VIT)}) == 73
    assert shortened(["a.0.weight", "a.1.weight"]) == ["a.0", "a.1"]
    assert shortened(["a", "a.weight"]) == ["a", "a.weight"] and shortened([]) == []
    assert max(map(len, shortened(["x" * 100, "y" * 100]))) == 46


def test_a_fit_without_layers_or_steps_is_an_empty_picture():
    assert len(drawn(pruning_over_steps([], {}, [], [], [], [], 0))) == 4
    assert drawn(picture(steps=[0], layers={"w": [0.5]}, target=[0.5], achieved=[0.5], end=0))
