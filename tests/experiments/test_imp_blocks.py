"""When the test of iterative pruning's children can be judged in blocks, and why else not."""

import math

import numpy as np
import pytest

from lightning_lottery.experiments.imp_blocks import blocks_of_test
from lightning_lottery.hooks.means import ByBatch

VALUES = {"level-0": (0.9, 0.8), "level-1": (0.85, math.nan)}
SEEDS = (4, 7)


def kept(value, weights=(10.0,) * 8, metric="acc"):
    return {metric: ByBatch(np.full(len(weights), value), np.array(weights))}


def of_children(**changed):
    """What all children kept, with that of the second seed's level 0 or 1 changed."""
    all_kept = {name: [kept(value) for value in of_seeds] for name, of_seeds in VALUES.items()}
    for name, metric in changed.items():
        all_kept[name.replace("_", "-")][1] = metric
    return all_kept


def test_all_children_s_values_stand_in_the_same_blocks_a_row_for_each_seed():
    blocks, reason = blocks_of_test(of_children(), VALUES, SEEDS, "acc")
    assert reason == "" and blocks.samples == 80
    assert blocks.values["level-0"].tolist() == [[0.9] * 8, [0.8] * 8]
    between = blocks.between("level-1", "level-0", -1)
    assert between.differences[0] == pytest.approx(np.full(8, 0.05)) and np.isnan(between.differences[1]).all()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"level_1": None}, "level-1 of seed 7 kept no values batch by batch, as one of an earlier version or without"),
        ({"level_0": kept(0.8, metric="loss")}, "level-0 of seed 7 did not log 'acc' in each batch of its test"),
        ({"level_0": {}}, "level-0 of seed 7 did not log 'acc' in each batch of its test"),
        ({"level_0": kept(0.8, (10.0,) * 9)}, "level-0 of seed 7 was tested on other batches than level-0 of seed 4"),
        ({"level_1": kept(0.8, (12.0,) * 8)}, "level-1 of seed 7 was tested on other batches than level-0 of seed 4"),
        ({"level_0": kept(0.81)}, "'acc' of level-0 of seed 7 is not the mean of its values over batches"),
    ],
)
def test_one_child_that_cannot_be_judged_in_blocks_leaves_all_to_their_seeds_alone(changed, says):
    blocks, reason = blocks_of_test(of_children(**changed), VALUES, SEEDS, "acc")
    assert blocks is None and reason.startswith(says)


def test_few_batches_or_no_children_at_all_are_no_blocks():
    few = {name: [kept(value, (10.0,) * 7) for value in of_seeds] for name, of_seeds in VALUES.items()}
    assert blocks_of_test(few, VALUES, SEEDS, "acc") == (None, "the test has 7 batches, and 8 are needed")
    assert blocks_of_test({}, VALUES, SEEDS, "acc")[1].startswith("level-0 of seed 4 kept no values")
