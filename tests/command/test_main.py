import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

import lightning_lottery
from helpers.processes import run
from helpers.stages import NO_ATTENTION, config, fit, mlp_layers, named, platon
from lightning_lottery import Ticket, zoo
from lightning_lottery.children.cli import COMMANDS
from lightning_lottery.command.main import main
from lightning_lottery.command.subcommands import LIGHTNINGS, SUBCOMMANDS
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.experiments.stages import STAGES


class Buggy(LightningModule):
    """Somebody's module with a mistake of their own."""

    def __init__(self, where: str = "init"):
        super().__init__()
        if where == "init":
            raise ZeroDivisionError("my own bug")

    def training_step(self, batch, batch_idx):
        """Never reached."""

    validation_step = training_step

    def configure_optimizers(self):
        raise ZeroDivisionError("my own bug")


def ticket(name="ticket.safetensors", **masks):
    Ticket(masks or {"network.classifier.weight": torch.ones(10, 8, dtype=torch.bool)}).save(name)
    return name


def torn(content=b"none"):
    Path("torn.ckpt").write_bytes(content)
    return "torn.ckpt"


def frozen(path):
    return fit(named("MaskFreezing", ticket=str(path)))


REFUSED = {
    "unknown key": (
        lambda: {**fit(), "trainer": {"max_epoch": 3}},
        "has a key 'trainer.max_epoch' that nothing reads. Did you mean 'trainer.max_epochs'",
    ),
    "unknown class": (lambda: fit(named("PLATTON")), "there is no class 'PLATTON'. Did you mean 'PLATON'"),
    "unknown argument": (
        lambda: fit(named("PLATON", sparsty=0.8)),
        "PLATON has no argument 'sparsty'.* Did you mean 'sparsity'",
    ),
    "wrong type": (lambda: fit(platon(interval="often")), "lightning_lottery.PLATON: `interval`: expected int"),
    "sparsity 1.8": (lambda: fit(platon(sparsity=1.8)), r"in \[0, 1\), got 1.8.$"),
    "schedule with begin": (
        lambda: fit(platon(sparsity=named("Cubic", final=0.6))),
        "has its own begin and end: give either a schedule, or `begin` and `end`.$",
    ),
    "interpolation": (lambda: {**fit(), "ckpt_path": "${oc.env:NO_SUCH}/a"}, "cannot be resolved: .*NO_SUCH"),
    "no checkpoint": (lambda: {**fit(), "ckpt_path": "none.ckpt"}, "There is no checkpoint 'none.ckpt'.$"),
    "no accelerator": (
        lambda: {**fit(), "trainer": {"accelerator": "gpuu"}},
        "The Trainer refuses its arguments: You selected an invalid accelerator name",
    ),
    "no model": (lambda: {"data": named("Digits")}, "names no module to train: give `model` in the YAML, or --model"),
    "torn checkpoint": (lambda: {**fit(), "ckpt_path": torn()}, "'torn.ckpt' does not load as a checkpoint without"),
    "text as checkpoint": (
        lambda: {**fit(), "ckpt_path": torn(b"hello")},
        "'torn.ckpt' does not load as a checkpoint without",
    ),
    "two callbacks of a kind": (
        lambda: fit(platon(), named("MagnitudePruning", sparsity=0.5)),
        "Two callbacks of `trainer.callbacks` would be saved as one: give each of a kind a `name` of its own",
    ),
    "no ticket": (lambda: frozen("none.safetensors"), "There is no ticket at 'none.safetensors'.$"),
    "ticket that does not fit": (
        lambda: frozen(ticket(other=torch.tensor([True]))),
        "The ticket does not fit ImageClassifier: missing in the module: other.$",
    ),
    "empty scope": (
        lambda: fit(platon(scope={"include": ["nothing.*"]})),
        r"Scope\(include=\('nothing.\*',\)\) matches none of the 24 parameters of ImageClassifier. Names look like '",
    ),
    "end after the fit": (
        lambda: fit(platon(end=9000)),
        "PLATON: .*reaches sparsity 0.5 at step 9000, but this fit ends at step 12: shorten `end` or train longer.$",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_user_s_mistake_is_one_sentence_and_exit_code_2(refused, here, case):
    content, message = REFUSED[case]
    assert re.search(message, refused("fit", "--config", config(content())))
    assert {path.name for path in here.rglob("*.ckpt")} <= {"torn.ckpt"}


def test_a_truncated_ticket_is_refused(refused, here):
    whole = (here / ticket()).read_bytes()
    (here / "torn.safetensors").write_bytes(whole[:-3])
    assert "'torn.safetensors' is not a ticket, or a truncated one" in refused(
        "fit", "--config", config(frozen("torn.safetensors"))
    )


def test_a_configuration_that_is_not_there_is_refused(refused, here):
    assert refused("fit", "--config", "none.yaml") == "There is no configuration 'none.yaml'."
    (here / "nine.yaml").touch()
    assert refused("fit", "--config=none.yaml").endswith("Did you mean 'nine.yaml'?")


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "hello", "- model"])
def test_a_configuration_without_keys_is_refused_by_name(refused, here, content):
    (here / "mine.yaml").write_text(content)
    begin = "`lightning-lottery fit --model mine.Net --data mine.Data --print_config` prints one to begin with."
    for words in (("fit",), ("instability",), ("path", "a.ckpt", "b.ckpt")):
        for name in words[1:]:
            (here / name).touch()
        assert refused(*words, "--config", "mine.yaml") == f"The configuration 'mine.yaml' has no keys. {begin}"


def test_a_subcommand_that_is_not_there_is_refused_with_those_that_are(refused):
    refusal = refused("fitt", "--config", "fit.yaml")
    assert refusal.startswith("There is no subcommand 'fitt'. Did you mean 'fit'? There are fit, validate, test, ")


def test_an_option_is_not_guessed_from_its_beginning(refused):
    assert "--trainer.max_epoch=3" in refused("fit", "--config", config(fit()), "--trainer.max_epoch=3")


@pytest.mark.parametrize("where", ["init", "fit"])
def test_a_bug_in_the_user_s_own_module_keeps_its_traceback(where):
    content = {**fit(), "model": named("command.test_main.Buggy", where=where)}
    with pytest.raises(Exception, match="my own bug") as bug:
        main(["fit", "--config", config(content)])
    error = bug.value
    while not isinstance(error, ZeroDivisionError):
        error = error.__cause__ or error.__context__
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    assert last.tb_frame.f_code.co_filename == __file__


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_lottery.command.child.do_child", interrupted)
    with pytest.raises(SystemExit) as exit:
        main(["child", "folder"])
    assert exit.value.code == 130
    assert capsys.readouterr().err == "lightning-lottery: interrupted.\n"


@pytest.mark.parametrize("name", ["explain", "instability", "sweep", "imp"])
def test_help_names_the_options_that_say_the_project(name, capsys):
    main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: lightning-lottery {name} --config FILE [options]" in shown
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  --")]
    assert {"--config", "--model", "--data"} <= {*listed}
    assert ("--ckpt_path" in listed) == (name != "sweep")  # which has parents instead


def test_help_of_all_lists_of_our_classes_those_that_users_name_and_no_option_of_an_experiment(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help_all"])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: lightning-lottery fit --config FILE [options]\n")
    shown = "".join(shown.split())
    ours = {*re.findall(r"lightning_lottery\.[\w.]+", shown)}
    public = {f"lightning_lottery.{name}" for name in lightning_lottery.__all__}
    public |= {f"lightning_lottery.zoo.{name}" for name in zoo.__all__}
    assert ours <= public
    assert {f"lightning_lottery.{name}" for name in ("PLATON", "EarlyBird", "Snapshots", "GraSP")} <= ours
    assert "--sweep" not in shown and "--imp" not in shown
    assert "lightning_lottery.zoo.Digits" in ours and "lightning.pytorch.callbacks.ModelCheckpoint" in shown


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_usage_names_every_subcommand(capsys, arguments):
    main(arguments)
    shown = capsys.readouterr().out
    for name in ("fit", "validate", "test", "predict", "explain", "run", "child"):
        assert re.search(rf"^  {name}\b", shown, re.MULTILINE)


def test_the_subcommands_of_lightning_are_those_that_it_has_and_each_experiment_s_is_its_section():
    assert LIGHTNINGS == COMMANDS and {*SECTIONS} < {*SUBCOMMANDS}
    assert (*COMMANDS, *SECTIONS) == STAGES


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_answers_to_help_wherever_it_is_asked_for(name, word, capsys):
    main([name, "--trainer.max_epochs", "3", word])
    assert capsys.readouterr().out.startswith(f"usage: lightning-lottery {name}")


IMPORTED = """
import sys
from lightning_lottery.command.main import main
try:
    main()
except SystemExit as exit:
    code = exit.code
else:
    code = 0
print("slow:", sorted({"torch", "lightning", "pytorch_lightning", "numpy"} & {*sys.modules}))
sys.exit(code)
"""


ANSWERS = {
    "help": (["--help"], 0, "usage: lightning-lottery SUBCOMMAND"),
    "version": (["--version"], 0, f"lightning-lottery {version('lightning_lottery')}"),
    "subcommand": (["fitt", "--config", "fit.yaml"], 2, "There is no subcommand 'fitt'. Did you mean 'fit'?"),
    "recipe": (["run", "none", "--seeds", "0,1"], 2, "There is no recipe folder 'none'"),
    **{f"help of {name}": ([name, "--help"], 0, f"usage: lightning-lottery {name}") for name in ("fit", "imp", "path")},
    "option": (["fit", "--trainer.max_epoch", "3"], 2, "Did you mean '--trainer.max_epochs'?"),
    "file": (["sweep", "--config", "none.yaml"], 2, "There is no configuration 'none.yaml'."),
    "project": (["instability"], 2, "`instability` needs a project: give fit's YAML by --config"),
    "recipes": (["new-recipe"], 0, "quickstart"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_these_answers_wait_for_neither_torch_nor_lightning(case):
    arguments, code, answer = ANSWERS[case]
    process = run(sys.executable, "-c", IMPORTED, *arguments)
    assert process.returncode == code and answer in process.stdout + process.stderr
    assert process.stdout.splitlines()[-1] == "slow: []"


def test_short_names_work_in_a_process_that_has_imported_nothing_else(here):
    pruning = named("PLATON", sparsity=named("Cubic", final=0.5, begin=1, end=8), interval=2, scope=NO_ATTENTION)
    process = run(
        sys.executable,
        "-m",
        "lightning_lottery",
        "explain",
        "--config",
        config(fit(pruning, named("Snapshots", steps=[0]))),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "Cubic(final=0.5, begin=1, end=8), an update every 2 steps" in " ".join(process.stdout.split())


OWN_CLI = """
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

class OwnCLI(LightningCLI):
    def before_fit(self):
        (pruning,) = [one for one in self.trainer.callbacks if type(one).__name__ == "PLATON"]
        print(type(pruning).__module__, pruning.scope)

if __name__ == "__main__":
    OwnCLI(BoringModel, BoringDataModule, save_config_callback=None)
"""


def test_in_somebody_s_own_command_line_a_callback_is_named_by_the_package(here):
    (here / "own.py").write_text(OWN_CLI)
    scope = {"class_path": "lightning_lottery.Scope", "init_args": {"include": ["layer.*"]}}
    sparsity = {"class_path": "lightning_lottery.Cubic", "init_args": {"final": 0.5, "begin": 1, "end": 3}}
    platon = named("lightning_lottery.PLATON", sparsity=sparsity, interval=1, scope=scope)
    trainer = {"max_steps": 4, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer |= {"enable_progress_bar": False, "default_root_dir": str(here), "callbacks": [platon]}
    process = run(sys.executable, "own.py", "fit", "--config", config({"trainer": trainer}))
    assert process.returncode == 0, process.stderr[-3000:]
    assert "lightning_lottery.callbacks.platon Scope(include=('layer.*',))" in process.stdout
    assert Ticket.load(here / "ticket.safetensors").sparsity == 0.5


def test_short_names_work_twice_on_the_command_line_after_a_yaml_list(here):
    up, down = mlp_layers()
    twice = [
        f"--trainer.callbacks{key}={value}"
        for name in ("a", "b")
        for key, value in {
            "+": "PLATON",
            ".sparsity": {"a": 0.8, "b": 0.6}[name],
            ".name": name,
            ".interval": 2,
            ".end": 8,
            ".scope.include": {"a": f'["{up}*"]', "b": f'["{down}*"]'}[name],
        }.items()
    ]
    content = fit(named("Snapshots", steps=[0]))
    content["trainer"] |= {"default_root_dir": str(here), "logger": False, "enable_checkpointing": False}
    main(["fit", "--config", config(content), *twice])
    assert (here / "snapshots/step=0.ckpt").exists()
    sparsities = {name: Ticket.load(here / f"ticket-{name}.safetensors").sparsity for name in ("a", "b")}
    assert sparsities == {"a": pytest.approx(0.8, abs=0.01), "b": pytest.approx(0.6, abs=0.01)}
