import random

import numpy as np
import pytest
import torch

from lightning_lottery.functional.random_numbers import random_numbers_kept


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_drawn_after_the_block_is_what_would_have_come_without_it(fails):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    try:
        with random_numbers_kept(torch.device("cpu")):
            draws()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert draws() == expected
