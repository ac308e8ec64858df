import inspect

from lightning.pytorch import Trainer

from lightning_lottery.children.fingerprint import (
    CHANGE_NOTHING,
    LEFT_OPEN,
    differences,
    leaves,
    shown,
    what_is_trained,
)


def test_every_plain_value_has_a_dotted_key():
    nested = {"a": {"b": 1, "c": [2, {"d": None}]}, "e": (), 5: "f"}
    assert dict(leaves(nested)) == {"a.b": 1, "a.c[0]": 2, "a.c[1].d": None, "5": "f"}


def test_equal_fingerprints_differ_in_nothing_whatever_the_kind_of_list():
    assert list(differences({"config": {"a": [1, 2]}}, {"config": {"a": (1, 2)}})) == []


def test_a_difference_says_what_was_and_what_is():
    before = {"config": {"lr": 0.1, "steps": [1, 2]}, "inputs": {"a.ckpt": "12"}}
    now = {"config": {"lr": 0.2, "steps": [1]}, "inputs": {"a.ckpt": "34"}}
    assert list(differences(before, now)) == [
        "lr was 0.1, is 0.2",
        "steps[1] was 2, is None",
        "the file a.ckpt has changed",
    ]


def trainer(**arguments):
    return {"model": {"lr": 0.1}, "trainer": {"max_epochs": 3, **arguments}}


def test_what_is_shown_or_written_beside_a_training_is_no_part_of_what_is_trained():
    quiet = trainer(enable_progress_bar=False, enable_model_summary=False, logger=False, log_every_n_steps=1)
    assert what_is_trained(quiet) == what_is_trained(trainer(enable_progress_bar=None)) == trainer()
    assert what_is_trained({"make_module": {}, "seed_everything": 1}) == {"make_module": {}, "seed_everything": 1}
    assert what_is_trained(trainer(precision="bf16-mixed", callbacks=[])) == trainer(
        precision="bf16-mixed", callbacks=[]
    )


def test_what_a_callback_logs_of_layers_is_no_part_of_what_is_trained():
    def named(class_path, **init_args):
        return {"class_path": class_path, "init_args": init_args}

    quiet, loud = (
        trainer(callbacks=[named("lightning_lottery.PLATON", sparsity=0.5, **more)])
        for more in ({}, {"log_layers": True})
    )
    assert what_is_trained(loud) == what_is_trained(quiet) == quiet
    section = {"sweep": {"pruners": {"a": named("lightning_lottery.SNIP", log_layers=False)}}}
    assert what_is_trained(section)["sweep"]["pruners"]["a"] == named("lightning_lottery.SNIP")
    mine = trainer(callbacks=[named("somebody.Callback", log_layers=True)], model=1)
    assert what_is_trained(mine) == mine and loud["trainer"]["callbacks"][0]["init_args"]["log_layers"]


def test_an_argument_left_open_is_what_the_trainer_takes_for_it():
    made = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for name, value in LEFT_OPEN.items():
        assert what_is_trained(trainer(**{name: None})) == what_is_trained(trainer(**{name: value}))
        attribute = getattr(made, name)
        assert (attribute, type(attribute)) == (value, type(value)), name
    assert {*LEFT_OPEN, *CHANGE_NOTHING} <= inspect.signature(Trainer.__init__).parameters.keys()


def test_one_batch_is_not_all_of_them():
    one, every = ({"config": trainer(limit_train_batches=limit)} for limit in (1, 1.0))
    assert list(differences(every, one)) == ["trainer.limit_train_batches was 1.0, is 1"]
    assert list(differences(one, one)) == list(differences(every, every)) == []


def test_a_long_value_does_not_bury_what_else_has_changed():
    (difference,) = differences({"source": "x" * 5000}, {"source": "1f"})
    assert difference.startswith("source was 'xxx") and difference.endswith("...', is '1f'") and len(difference) < 150


def test_of_many_differences_the_first_five_are_shown():
    assert shown(list("abcde")) == "a; b; c; d; e"
    assert shown(list("abcdef")) == "a; b; c; d; e; ..."
