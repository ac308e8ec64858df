import logging
import warnings
from argparse import ArgumentTypeError

import pytest
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from helpers.stages import fit, named, platon
from lightning_lottery import PLATON, LotteryError
from lightning_lottery.children.cli import BuiltCLI, LotteryCLI, mistake_in, resolve
from lightning_lottery.hooks.quiet import without_noise


class Broken(LightningModule):
    def __init__(self):
        super().__init__()
        try:
            {}["the root"]
        except KeyError as error:
            raise ValueError("my own bug") from error


class Refused(LightningModule):
    def __init__(self):
        super().__init__()
        raise LotteryError("our own refusal.")


@pytest.fixture
def command_line(tmp_path):
    """A command line for a configuration."""

    def written(content, *more):
        path = tmp_path / "fit.yaml"
        path.write_text(yaml.safe_dump(content))
        return ["fit", "--config", str(path), *more]

    return written


def init_args(config):
    return [
        (callback["class_path"].rpartition(".")[2], callback["init_args"])
        for callback in config["trainer"]["callbacks"]
    ]


def test_resolving_builds_nothing_and_writes_every_default_out(command_line, tmp_path):
    config = resolve(command_line({**fit(platon()), "model": named("children.test_cli.Broken")}))
    assert init_args(config)[-1][1]["beta1"] == 0.85
    assert config["trainer"]["max_steps"] == -1 and config["ckpt_path"] is None
    assert "config" not in config
    assert list(tmp_path.iterdir()) == [tmp_path / "fit.yaml"]


@pytest.mark.parametrize("text", ["", "other", "/etc/hostname", "${oc.env:HOME}", "masks: {}", "class_path: Ticket"])
def test_a_ticket_stays_a_path_whatever_the_file_holds(command_line, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.safetensors").write_text(text)
    freezing = named("MaskFreezing", ticket="given.safetensors")
    config = resolve(
        command_line(fit(freezing), "--trainer.callbacks+=MaskFreezing", "--trainer.callbacks.ticket=fit.yaml")
    )
    assert [arguments["ticket"] for _, arguments in init_args(config)[-2:]] == ["given.safetensors", "fit.yaml"]
    with pytest.raises(LotteryError, match="given.safetensors"):
        BuiltCLI(command_line(fit(freezing)))


@pytest.mark.parametrize("form", ["--config binary.yaml", "--config=binary.yaml"])
def test_a_configuration_that_is_no_text_is_refused_by_name(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff")
    with pytest.raises(LotteryError, match="^The configuration 'binary.yaml' is no text in UTF-8: invalid start byte"):
        resolve(["fit", *form.split()])
    (tmp_path / "fit.yaml").write_text("model: binary.yaml")
    with pytest.raises(LotteryError, match="^`model`: 'utf-8' codec can't decode"):
        resolve(["fit", "--config", "fit.yaml"])


def test_what_was_resolved_resolves_to_itself(command_line):
    config = resolve(command_line(fit(platon()), "--seed_everything", "3"))
    assert resolve(command_line(config)) == config


class Wide(LightningModule):
    def __init__(self, width: int = 4):
        super().__init__()


def test_a_file_that_names_no_class_is_read_for_the_class_named_beside_it(command_line):
    arguments = command_line({"model": {"width": 5}})
    with pytest.raises(LotteryError, match=r"names no classes: say them beside --config, --model package.Model --data"):
        resolve(arguments)
    model = {"class_path": "children.test_cli.Wide", "init_args": {"width": 5}}
    named_last, with_sign = (["--model", model["class_path"]], [f"--model={model['class_path']}"])
    assert resolve([*arguments, *named_last])["model"] == resolve([*arguments, *with_sign])["model"] == model
    # A file that does name one is read as ever: the option overrides it.
    assert resolve([*command_line({"model": named("children.test_cli.Broken")}), *named_last])["model"] == {
        **model,
        "init_args": {"width": 4},
    }


def test_interpolation_reads_the_environment(command_line, monkeypatch):
    monkeypatch.setenv("LOTTERY_RUN", "runs/here")
    config = resolve(command_line({**fit(), "ckpt_path": "${oc.env:LOTTERY_RUN}/1-dense/last.ckpt"}))
    assert config["ckpt_path"] == "runs/here/1-dense/last.ckpt"


def test_short_names_append_to_the_list_of_the_yaml(command_line):
    short = "--trainer.callbacks+=PLATON --trainer.callbacks.sparsity=0.8 --trainer.callbacks.name=a"
    again = "--trainer.callbacks+=PLATON --trainer.callbacks.sparsity=0.6 --trainer.callbacks.name=b"
    config = resolve(command_line(fit(named("Snapshots", steps=[0])), *short.split(), *again.split()))
    callbacks = init_args(config)
    assert [name for name, _ in callbacks] == ["ExactResume", "DiesAt", "Snapshots", "PLATON", "PLATON"]
    assert [(init["sparsity"], init["name"]) for _, init in callbacks[-2:]] == [(0.8, "a"), (0.6, "b")]


def test_a_schedule_goes_where_a_number_does(command_line):
    config = resolve(command_line(fit(platon(sparsity=named("Cubic", final=0.6), begin=0.05, end=0.7))))
    assert init_args(config)[-1][1]["sparsity"]["init_args"]["final"] == 0.6


def test_a_step_stays_an_int_and_a_fraction_a_float(command_line):
    init = init_args(resolve(command_line(fit(platon(begin=2, end=0.5)))))[-1][1]
    assert (init["begin"], init["end"]) == (2, 0.5)
    assert isinstance(init["begin"], int)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trainer.max_epoch=3"], "^unrecognized arguments: --trainer.max_epoch=3.$"),
        (
            ["--trainer.callbacks+=PLATTON"],
            "^`trainer.callbacks`: there is no class .PLATTON.. Did you mean .PLATON.. ",
        ),
        (
            ["--trainer.callbacks.sparsty=0.8"],
            "^`trainer.callbacks`: lightning_lottery.PLATON: Option 'sparsty' is not accepted. Did you mean 'sparsity'",
        ),
        (["--trainer.callbacks.sparsity=much"], "expected float; there is no class .much.. This package"),
        (["--trainer.max_epochs=three"], "^`trainer.max_epochs`: expected int.$"),
        (["--config", "none.yaml"], "^`config`: File does not exist: '.*none.yaml'.$"),
        (["--ckpt_path=${oc.env:NO_SUCH_VARIABLE}/a"], None),  # the command line is no YAML: taken as it stands
    ],
)
def test_the_parser_s_refusal_is_one_sentence(command_line, more, message):
    arguments = command_line(fit(platon()), *more)
    if message is None:
        assert resolve(arguments)["ckpt_path"] == "${oc.env:NO_SUCH_VARIABLE}/a"
        return
    with pytest.raises(LotteryError, match=message) as refusal:
        resolve(arguments)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("missing", ["${oc.env:NO_SUCH_VARIABLE}", "${nothing.here}"])
def test_an_interpolation_that_leads_nowhere_is_refused_by_its_name(command_line, missing):
    with pytest.raises(LotteryError, match="cannot be resolved: .*(NO_SUCH_VARIABLE|nothing.here)"):
        resolve(command_line({**fit(), "ckpt_path": f"{missing}/last.ckpt"}))


def test_yaml_that_is_none_is_refused(tmp_path):
    (tmp_path / "fit.yaml").write_text("trainer: [1\n")
    with pytest.raises(LotteryError, match="Problems parsing config"):
        resolve(["fit", "--config", str(tmp_path / "fit.yaml")])


def test_a_refusal_of_ours_comes_as_itself(command_line):
    with pytest.raises(LotteryError, match="^our own refusal.$"):
        LotteryCLI(command_line({**fit(), "model": named("children.test_cli.Refused")}))


def test_a_bug_keeps_its_cause(command_line):
    with pytest.raises(ValueError, match="my own bug") as bug:
        LotteryCLI(command_line({**fit(), "model": named("children.test_cli.Broken")}))
    chain, error = [], bug.value
    while error is not None:
        assert error not in chain
        chain.append(error)
        error = error.__cause__ or error.__context__
    assert any(isinstance(error, KeyError) and error.args == ("the root",) for error in chain)


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_is_built(command_line):
    with pytest.raises(LotteryError, match="There is no checkpoint 'none.ckpt'"):
        LotteryCLI(command_line({**fit(), "model": named("children.test_cli.Broken")}, "--ckpt_path=none.ckpt"))


def test_the_trainer_s_arguments_can_be_overridden_given_the_configuration_s_own(command_line):
    seen = []

    def overridden(trainer):
        seen.extend(trainer["callbacks"])
        return {"callbacks": [], "logger": False, "enable_checkpointing": False}

    project = BuiltCLI(command_line(fit(platon())), trainer=overridden)
    assert any(isinstance(callback, PLATON) for callback in seen)
    assert not any(isinstance(callback, PLATON) for callback in project.trainer.callbacks)


def test_the_refusal_at_the_bottom_of_an_exception_is_found():
    refusal, setup, bug = LotteryError("no"), MisconfigurationException("no"), KeyError("mine")
    outer = ValueError("outer")
    outer.__cause__ = ArgumentTypeError("the parser's, between")
    outer.__cause__.__context__ = refusal
    assert mistake_in(outer) is refusal
    handled = KeyError("a bug of the user's own, while a refusal was handled")
    handled.__context__ = refusal
    assert mistake_in(handled) is None
    assert mistake_in(setup) is setup
    assert mistake_in(None) is None
    bug.__cause__ = bug  # does not turn for ever
    assert mistake_in(bug) is None


def test_noise_is_left_out_only_inside(caplog):
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level("INFO", logger=log.name):
        with without_noise():
            log.info("💡 Tip: buy something")
            log.info("PLATON begins with this fit at step 100")
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)
        log.info("💡 Tip: buy something")
    assert [record.message for record in caplog.records] == [
        "PLATON begins with this fit at step 100",
        "💡 Tip: buy something",
    ]
