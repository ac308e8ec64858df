"""Projects that nobody here has seen: every module in every loop under every callback works, or is refused in time."""

from itertools import combinations

import pytest

from foreign.oracle import CALLBACKS, OF_WEIGHTS, covering, differences_where_nothing_is_removed, outcome, product


def each(cells):
    return pytest.mark.parametrize("cell", cells, ids=" - ".join)


@pytest.mark.parametrize("callbacks", [CALLBACKS, OF_WEIGHTS], ids=["all", "of weights"])
def test_every_two_meet_in_the_covering(callbacks):
    for first, second in combinations(range(3), 2):
        met = {(cell[first], cell[second]) for cell in covering(callbacks)}
        assert met == {(cell[first], cell[second]) for cell in product(callbacks)}


@each(covering(CALLBACKS))
def test_it_works_or_is_refused_before_the_first_step(cell, tmp_path):
    text, wrong = outcome(tmp_path, cell)
    assert not wrong, text


@each(covering(OF_WEIGHTS))
def test_what_removes_nothing_leaves_the_dense_run_bit_for_bit(cell, tmp_path):
    assert not differences_where_nothing_is_removed(tmp_path, cell, 1e-9)  # scores are asked for, and change nothing


@pytest.mark.torture
@each(product(CALLBACKS))
def test_the_whole_product_works_or_is_refused_before_the_first_step(cell, tmp_path, record_property):
    text, wrong = outcome(tmp_path, cell)
    record_property("foreign", [*cell, text])
    assert not wrong, text


@pytest.mark.torture
@each(product(OF_WEIGHTS))
@pytest.mark.parametrize("sparsity", [0.0, 1e-9])
def test_the_whole_product_removes_nothing_where_nothing_is_asked(cell, sparsity, tmp_path):
    assert not differences_where_nothing_is_removed(tmp_path, cell, sparsity)
