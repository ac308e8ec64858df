"""What the parser says, as one sentence that suggests what was meant."""

import pytest

import lightning_lottery.zoo  # noqa: F401 (its classes are known once imported)
from lightning_lottery.children.refusal import in_one_sentence

OF_A_UNION = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[lightning.pytorch.callbacks.callback.Callback], <class 'NoneType'>]
  Errors:
    - {error}
    - Not a valid subclass of Callback
      Subclass types expect one of:
      - a class path (str)
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: []"""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            "Expected a dot import path string: PLATTON",
            "there is no class 'PLATTON'. Did you mean 'PLATON'? This package has",
        ),
        (
            "Expected a dot import path string: Xyzzyx",
            "there is no class 'Xyzzyx'. This package has DynamicMask, EarlyBird, ",
        ),
        ("Expected a dot import path string: EarlyStoping", "Did you mean 'EarlyStopping'?"),
        (
            "Problem with given class_path 'lightning_lottery.PLATON':\n        Option 'sparsty' is not accepted",
            "Option 'sparsty' is not accepted. Did you mean 'sparsity'? It takes sparsity, beta1,",
        ),
        (
            "Problem with given class_path 'no.such.Class':\n        Option 'sparsty' is not accepted",
            "Option 'sparsty' is not accepted.",
        ),
        (
            "Problem with given class_path 'lightning.Callback':\n        Option 'init_arg.sparsity' is not accepted",
            "lightning.Callback: Option 'init_arg.sparsity' is not accepted.",
        ),
    ],
)
def test_what_is_left_of_a_union_is_what_was_wrong_and_what_was_meant(error, says):
    sentence = in_one_sentence(OF_A_UNION.format(error=error))
    assert says in sentence and "\n" not in sentence and "NoneType" not in sentence and "Subtypes" not in sentence


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("Subcommand 'fit' does not accept option 'trainer.max_epoch'", " Did you mean 'trainer.max_epochs'?"),
        ("Subcommand 'fit' does not accept option 'xyz'", ""),
        (
            "Problem with given class_path 'zoo.Nett': module 'lightning_lottery.zoo' has no attribute 'Digitts'",
            " Did you mean 'Digits'?",
        ),
        ('Parser key "optimizer": Expected a dot import path string: Adm', " Did you mean 'Adam'?"),
        ('Parser key "model": Expected a dot import path string: ImageClasifier', " Did you mean 'ImageClassifier'?"),
        (
            'Parser key "a": Parser key "rules": Expected a dot import path string: SlopHAC',
            " Did you mean 'SlopeHAC'? This",
        ),
    ],
)
def test_the_hint_is_of_the_kind_that_was_asked_for(message, hint):
    sentence = in_one_sentence(message, ["trainer.max_epochs", "trainer.min_epochs"])
    assert hint in sentence and ("Did you mean" in sentence) == bool(hint)


def test_a_file_without_classes_is_told_how_to_name_them():
    sentence = in_one_sentence("Problem with given class_path 'lightning.LightningModule': Option 'lr' is not accepted")
    assert sentence.endswith("say them beside --config, --model package.Model --data package.Data.")
