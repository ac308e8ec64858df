"""Silence: only what says nothing is left out, only inside, and a module's own `log` comes back."""

import logging
import warnings

import pytest
from lightning.pytorch import LightningModule

from lightning_lottery.hooks.quiet import NOISE, logging_to, without_logging, without_noise

LOG = "lightning.pytorch.utilities.rank_zero"


@pytest.mark.parametrize("beginning", NOISE)
def test_what_every_fit_says_is_left_out_inside_and_said_outside(beginning, caplog):
    for name in (LOG, "lightning.fabric.utilities.seed"):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger=name), without_noise():
            logging.getLogger(name).info(f"{beginning} and more")
            logging.getLogger(name).info(f"a sentence that only holds: {beginning}")
        assert [record.getMessage() for record in caplog.records] == [f"a sentence that only holds: {beginning}"]
        with caplog.at_level(logging.INFO, logger=name):
            logging.getLogger(name).info(beginning)
        assert caplog.records[-1].getMessage() == beginning


def test_the_filters_go_when_the_block_breaks(caplog):
    with pytest.raises(ZeroDivisionError), without_noise():
        raise ZeroDivisionError
    with caplog.at_level(logging.INFO, logger=LOG):
        logging.getLogger(LOG).info(NOISE[0])
    assert len(caplog.records) == 1


def test_only_known_warnings_are_left_out():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_noise():
            warnings.warn("Be aware that when using `ckpt_path`, callbacks differ", UserWarning, stacklevel=1)
            warnings.warn("be warned", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["be warned"]


def test_what_a_module_logs_goes_elsewhere_and_nowhere_and_then_where_it_went():
    module, outer, inner = LightningModule(), [], []
    with logging_to(module, lambda name, value, **_: outer.append((name, value))):
        module.log("a", 1.0)
        with logging_to(module, lambda name, value, **_: inner.append((name, value))):
            module.log_dict({"b": 2.0, "c": 3.0})
        with without_logging(module):
            module.log("d", 4.0)
        module.log("e", 5.0)
    assert outer == [("a", 1.0), ("e", 5.0)] and inner == [("b", 2.0), ("c", 3.0)]
    assert "log" not in vars(module)


def test_a_stand_in_of_the_project_s_own_comes_back_also_when_the_block_breaks():
    module, seen = LightningModule(), []
    vars(module)["log"] = lambda name, value: seen.append((name, value))
    with pytest.raises(ZeroDivisionError), without_logging(module):
        module.log("a", 1.0)
        raise ZeroDivisionError
    module.log("b", 2.0)
    assert seen == [("b", 2.0)]
