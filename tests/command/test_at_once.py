"""What is refused before anything slow is imported, and what is left to the parser."""

import pytest

import lightning_lottery
from helpers.stages import config, fit, named, platon
from lightning_lottery import LotteryError, callbacks
from lightning_lottery.command import at_once
from lightning_lottery.command.at_once import checked, refuse_argument, subcommand_of
from lightning_lottery.command.subcommands import SUBCOMMANDS

KINDS = ("Constant", "Cubic", "Exponential", "HammingFIFO", "SlopeHAC", "MannKendall", "ADF", "SlopeEquivalence")


def check(name, *words):
    return checked(SUBCOMMANDS[name], words)


@pytest.fixture
def project(here):
    return config(fit())


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("--save-midpoint=a.ckpt", "--save_midpoint=a.ckpt"),
        ("--layer-alphas", "--layer_alphas"),
        ("--layer_alphas", "--layer_alphas"),
    ],
)
def test_an_option_is_known_with_dashes_and_with_underscores(typed, known, project, here):
    for name in ("a.ckpt", "b.ckpt"):
        (here / name).touch()
    value = [] if "=" in typed else ["0.5"]
    assert check("path", "a.ckpt", "b.ckpt", "--config", project, typed, *value)[4] == known


def test_dashes_inside_of_a_value_or_of_a_class_s_argument_stay(project):
    words = ["--config", project, "--model.tags.my-own=a-b", "--trainer.max-epochs=3", "--dry-run", "--seeds", "1,2"]
    expected = [*words[:3], "--trainer.max_epochs=3", "--dry_run", "--seeds", "1,2"]
    assert check("imp", *words) == expected


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("fit", ["--trainer.max_epoch=3"], "no option '--trainer.max_epoch=3'. Did you mean '--trainer.max_epochs'"),
        ("fit", ["--sweep.step", "[1]"], "Did you mean '--sweep.steps'? There are --sweep.seeds, --sweep.steps"),
        ("fit", ["--modl", "a.B"], "Did you mean '--model'?"),
        ("imp", ["--seed", "1"], "Did you mean '--seeds'?"),
        ("path", ["--ckpt", "a.ckpt"], "There are --config, --model, --data, --align"),
        ("shrink", ["--ckpt", "a.ckpt"], "Did you mean '--ckpt_path'?"),
        ("run", ["quickstart", "--job", "2"], "Did you mean '--jobs'?"),
    ],
)
def test_an_option_that_does_not_exist_is_refused_with_what_was_meant(command, words, says):
    with pytest.raises(LotteryError) as refusal:
        check(command, *words)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.callbacks+=Mine", "--trainer.callbacks.anything=3"],
        ["--trainer.callbacks+=PLATON", "--trainer.callbacks.sparsity.class_path=Cubic"],
        ["--trainer.callbacks.help", "PLATON"],
        ["--model.init_args.network.init_args.width", "3"],
        ["--optimizer", "Adam", "--optimizer.lr=0.1", "--lr_scheduler=StepLR"],
        ["--trainer", "trainer.yaml", "--imp.scope.include+=a"],
        ["--ckpt_path", "best"],
        ["--ckpt_path=s3://bucket/a.ckpt"],
        ["--ckpt_path", "registry:model"],
        ["--config", '{"trainer": {"max_epochs": 3}}'],
        ["--print_config=skip_default"],
    ],
)
def test_what_only_imported_classes_can_tell_is_left_to_the_parser(words, project):
    assert check("fit", "--config", project, *words) == ["--config", project, *words]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"modle": {}}, "has a key 'modle' that nothing reads. Did you mean 'model'?"),
        ({"trainer": {"max_epoch": 3}}, "Did you mean 'trainer.max_epochs'?"),
        ({"sweep": {"stepss": [1]}}, "Did you mean 'sweep.steps'?"),
        ({"imp": {"xyz": 1}}, "There are imp.seeds, imp.prune_fraction"),
        (fit(platon(sparsty=0.8)), "PLATON has no argument 'sparsty' ('fit.yaml'). Did you mean 'sparsity'?"),
        (fit(named("lightning_lottery.PLATON", betta1=1)), "Did you mean 'beta1'?"),
        (fit({"class_path": "PLATON", "init_arg": {}}), "gives PLATON a key 'init_arg'. Did you mean 'init_args'?"),
        (fit(platon(sparsity=named("Cubic", finall=0.5))), "Cubic has no argument 'finall'"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_what_was_meant(content, says, here):
    with pytest.raises(LotteryError) as refusal:
        check("fit", "--config", config(content))
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "a: [", "", "trainer: trainer.yaml", "a: {b: 1}: c", "trainer.max_epochs: 3"]
)
def test_a_yaml_that_is_read_otherwise_is_left_to_the_parser(text, here):
    (here / "odd.yaml").write_text(text)
    assert check("fit", "--config", "odd.yaml") == ["--config", "odd.yaml"]


def test_an_argument_of_a_callback_named_on_the_command_line_is_refused(project):
    with pytest.raises(LotteryError, match="PLATON has no argument 'sparsty'.* Did you mean 'sparsity'"):
        check("fit", "--config", project, "--trainer.callbacks+=PLATON", "--trainer.callbacks.sparsty=0.8")


def test_nothing_is_said_of_a_class_that_is_not_of_this_package():
    refuse_argument("my.PLATON", "sparsty", "'a.yaml'")
    refuse_argument("EarlyStopping", "sparsty", "'a.yaml'")
    with pytest.raises(LotteryError, match="It takes ticket, shuffle_seed, shuffle_layers, name"):
        refuse_argument("MaskFreezing", "file", "'a.yaml'")


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        (
            "instability",
            [],
            "`instability` needs a project: give fit's YAML by --config, as in `lightning-lottery insta",
        ),
        ("fit", ["--trainer.max_epochs", "3"], "`fit` needs a project"),
        ("path", ["--config", "fit.yaml"], "`path` needs ckpt_paths (Lightning checkpoints"),
        ("path", ["fit.yaml"], "`path` needs --config (the project"),
        ("shrink", ["--config", "fit.yaml"], "`shrink` needs --ckpt_path (A checkpoint"),
        ("run", [], "`run` needs recipe"),
        ("predict-tickets", [], "`predict-tickets` needs sweep"),
        ("ticket", ["show"], "`ticket` needs tickets"),
        ("fit", ["--config", "none.yaml"], "There is no configuration 'none.yaml'."),
        ("fit", ["--config", "fti.yaml"], "There is no configuration 'fti.yaml'. Did you mean 'fit.yaml'?"),
        ("imp", ["--config", "fit.yaml", "--ckpt_path=none.ckpt"], "There is no checkpoint 'none.ckpt'."),
        ("path", ["none.ckpt", "b.ckpt", "--config", "fit.yaml"], "There is no checkpoint 'none.ckpt'."),
        ("ticket", ["show", "none.safetensors"], "There is no ticket 'none.safetensors'."),
        ("fit", ["fit.yaml"], "`fit` does not know what to do with 'fit.yaml': a YAML is given by --config."),
        ("run", ["a", "b"], "`run` does not know what to do with 'b'."),
        ("run", ["quickstart"], "`lightning-lottery new-recipe quickstart` copies this package's."),
    ],
)
def test_what_is_missing_is_said(command, words, says, project):
    with pytest.raises(LotteryError) as refusal:
        check(command, *words)
    assert says in str(refusal.value)


def test_a_plan_needs_no_sweep():
    assert check("predict-tickets", "--plan", "r=0.5") == ["--plan", "r=0.5"]


def test_a_subcommand_is_known_with_dashes_and_with_underscores():
    assert subcommand_of("predict_tickets") is subcommand_of("predict-tickets") is SUBCOMMANDS["predict-tickets"]
    with pytest.raises(LotteryError, match="no subcommand 'instabilty'. Did you mean 'instability'"):
        subcommand_of("instabilty")


def test_the_classes_whose_arguments_are_known_at_once_are_those_that_yaml_names():
    public = {name: f"lightning_lottery.{module}" for name, module in lightning_lottery._MODULES.items()}
    named = (*(callback for callback in vars(callbacks) if callback in public), *KINDS, "Scope")
    known = at_once._classes_of_ours()
    assert {name: known.get(name) for name in named if name[0].isupper()} == {
        name: public[name] for name in named if name[0].isupper()
    }


def test_a_yaml_that_holds_itself_is_left_to_the_parser(here):
    (here / "fit.yaml").write_text("model: &m {class_path: PLATON, init_args: *m}")
    assert check("fit", "--config", "fit.yaml") == ["--config", "fit.yaml"]
