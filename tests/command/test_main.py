import json
import re

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule

from helpers import stages
from helpers.stages import fit, freezing, in_this_process, named, platon, write
from lightning_lottery import Ticket
from lightning_lottery.command.main import main


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


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs the command, expects exit code 2, and gives the one line that it left on stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line and not line.startswith("INFO: ")]  # Lightning's log
        assert "Traceback" not in said
        assert len(lines) == 1 and lines[0].startswith("lightning-lottery: error: "), said
        return lines[0].removeprefix("lightning-lottery: error: ")

    return run


def config(content, name="fit.yaml"):
    with open(name, "w") as file:
        yaml.safe_dump(content, file)
    return name


def ticket(name="ticket.safetensors", **masks):
    Ticket(masks or {"network.classifier.weight": torch.ones(10, 8, dtype=torch.bool)}).save(name)
    return name


def frozen(path):
    return fit(named("MaskFreezing", ticket=str(path)))


REFUSED = {
    "unknown key": (lambda: {**fit(), "trainer": {"max_epoch": 3}}, "does not accept option 'trainer.max_epoch'"),
    "unknown class": (lambda: fit(named("PLATTON")), "PLATTON"),
    "unknown argument": (lambda: fit(named("PLATON", sparsty=0.8)), "Option 'sparsty' is not accepted"),
    "wrong type": (lambda: fit(platon(interval="often")), "Expected a <class 'int'>"),
    "sparsity 1.8": (lambda: fit(platon(sparsity=1.8)), r"must be in \[0, 1\), got 1.8.$"),
    "schedule with begin": (
        lambda: fit(platon(sparsity=named("Cubic", final=0.6))),
        "has its own begin and end: give either a schedule, or `begin` and `end`.$",
    ),
    "interpolation": (lambda: {**fit(), "ckpt_path": "${oc.env:NO_SUCH}/a"}, "cannot be resolved: .*NO_SUCH"),
    "no checkpoint": (lambda: {**fit(), "ckpt_path": "none.ckpt"}, "There is no checkpoint 'none.ckpt'.$"),
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
    assert not list(here.rglob("*.ckpt"))


def test_a_truncated_ticket_is_refused(refused, here):
    whole = (here / ticket()).read_bytes()
    (here / "torn.safetensors").write_bytes(whole[:-3])
    assert "'torn.safetensors' is not a ticket, or a truncated one" in refused(
        "fit", "--config", config(frozen("torn.safetensors"))
    )


def test_a_configuration_that_is_not_there_is_refused(refused):
    assert re.match('Parser key "config": File does not exist: .*none.yaml', refused("fit", "--config", "none.yaml"))


def test_a_subcommand_that_is_not_there_is_refused_with_those_that_are(refused):
    said = refused("fitt", "--config", "fit.yaml")
    assert said.startswith("There is no subcommand 'fitt': there are fit, validate, test, predict, explain, path, ")


def test_an_option_is_not_guessed_from_its_beginning(refused):
    assert "--trainer.max_epoch=3" in refused("fit", "--config", config(fit()), "--trainer.max_epoch=3")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "There is no recipe folder 'recipe'.$"),
        ({}, "has no stage"),
        ({"1-a.fit": {}, "1-b.fit": {}}, "have the same number"),
        ({"1-a.train": {}}, "asks for the subcommand 'train'"),
        ({"1-a.fit": {"trainer": {"max_epoch": 3}}}, "1-a.fit.yaml: .*does not accept option 'trainer.max_epoch'"),
        ({"1-a.fit": fit(freezing("0-none"))}, r"1-a \(1/1\): '.*' does not exist; no earlier stage wrote it.$"),
    ],
)
def test_a_folder_that_cannot_be_run_is_refused(refused, here, files, message):
    if files is not None:
        write(here / "recipe", files)
    assert re.search(message, refused("run", "recipe"))


def test_seeds_are_numbers(refused):
    assert refused("run", "recipe", "--seeds", "0;1") == "--seeds are numbers separated by commas, got '0;1'."


def test_run_hands_on_what_it_was_given(monkeypatch):
    given = {}
    monkeypatch.setattr(
        "lightning_lottery.experiments.recipe.run", lambda *args, **kwargs: given.update(kwargs, args=args)
    )
    options = ["--out", "there", "--redo", "1-a", "--redo", "2-b", "--overlay", "o.yaml", "--jobs", "2"]
    options += ["--dask", "tcp://there"]
    main(["run", "folder", "--seeds", "0,2", *options])
    expected = {"out": "there", "redo": ["1-a", "2-b"], "overlay": "o.yaml", "jobs": 2, "dask": "tcp://there"}
    assert given == {"args": ("folder", [0, 2]), **expected}


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

    monkeypatch.setattr("lightning_lottery.children.child.do_child", interrupted)
    with pytest.raises(SystemExit) as exit:
        main(["child", "folder"])
    assert exit.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_usage_names_every_subcommand(capsys, arguments):
    main(arguments)
    shown = capsys.readouterr().out
    for name in ("fit", "validate", "test", "predict", "explain", "run", "child"):
        assert re.search(rf"^  {name}\b", shown, re.MULTILINE)


def test_short_names_work_twice_on_the_command_line_after_a_yaml_list(here):
    twice = [
        f"--trainer.callbacks{key}={value}"
        for name in ("a", "b")
        for key, value in {
            "+": "PLATON",
            ".sparsity": {"a": 0.8, "b": 0.6}[name],
            ".name": name,
            ".interval": 2,
            ".end": 8,
            ".scope.include": {"a": '["*mlp.fc1*"]', "b": '["*mlp.fc2*"]'}[name],
        }.items()
    ]
    content = fit(named("Snapshots", steps=[0]))
    content["trainer"] |= {"default_root_dir": str(here), "logger": False, "enable_checkpointing": False}
    main(["fit", "--config", config(content), *twice])
    assert (here / "snapshots/step=0.ckpt").exists()
    sparsities = {name: Ticket.load(here / f"ticket-{name}.safetensors").sparsity for name in ("a", "b")}
    assert sparsities == {"a": pytest.approx(0.8, abs=0.01), "b": pytest.approx(0.6, abs=0.01)}


class Tied(LightningModule):
    """Two names for one weight, and a layer that is left out."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        pytest.fail("explain trains")

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_explain_shows_everything_trains_nothing_and_leaves_no_file(here, capsys):
    content = {**fit(platon(scope=None)), "model": named("command.test_main.Tied")}
    content["trainer"] |= {"enable_progress_bar": True, "enable_model_summary": True}
    main(["explain", "--config", config(content)])
    shown = capsys.readouterr().out
    rows = {
        words[0]: words[1:] for line in shown.splitlines() if len(words := re.split(r"\s*[│┃]\s*", line)[1:-1]) == 5
    }
    assert rows == {
        "parameter": ["of", "shape", "entries", "in scope"],
        "first.weight (tied: second.weight)": ["Linear", "64 x 64", "4,096", "yes"],
        "first.bias": ["Linear", "64", "64", "no: bias"],
        "second.bias": ["Linear", "64", "64", "no: bias"],
        "head.weight": ["Linear", "10 x 64", "640", rows["head.weight"][-1]],
        "head.bias": ["Linear", "10", "10", "no: bias"],
    }
    assert rows["head.weight"][-1].startswith("no: excluded by 're:")
    assert "4,096 of 4,874 parameters in scope" in shown
    schedule = re.findall(r"│\s+(\d+) │\s+([\d.]+) │\s+([\d,]+) │", shown)
    assert schedule[0] == ("2", "0.0000", "4,096") and schedule[-1] == ("8", "0.5000", "2,048")
    assert "Memory that PLATON adds: 0.05 MiB (13.0 bytes per weight)." in shown  # a mask and three float32 averages
    assert "Zeros alone bring no speed" in shown
    assert [path.name for path in here.iterdir()] == ["fit.yaml"]


def test_explain_refuses_a_scope_that_matches_nothing(refused, here):
    content = fit(platon(scope={"include": ["nothing.*"]}))
    assert "matches none of the 24 parameters" in refused("explain", "--config", config(content))


def test_explain_refuses_a_fit_with_nothing_to_explain(refused):
    bird = named("EarlyBird", rules=[], sparsities=[0.5], at=[1], scores="weights")
    for content in (fit(), fit(bird)):
        assert "holds no callback that makes masks" in refused("explain", "--config", config(content))


def test_explain_shows_the_weights_that_a_draw_will_mask(here, capsys):
    rules = [named("HammingFIFO", length=2, interval=1)]
    bird = named("EarlyBird", rules=rules, sparsities=[0.5], scores="weights", action="prune")
    main(["explain", "--config", config({**fit(bird), "model": named("helpers.blocks.Blocks")})])
    shown = capsys.readouterr().out
    for name in ("self_attn.out_proj.weight", "linear2.weight"):
        assert [line.split("│")[-2].strip() for line in shown.splitlines() if name in line] == ["yes", "yes"]
    assert "384 of 1,451 parameters in scope" in shown


@pytest.fixture
def networks():
    """Two checkpoints of a module as two seeds build it, and the configuration that names it."""
    from lightning_lottery.zoo import ImageClassifier, lenet_300_100

    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save({"state_dict": ImageClassifier(lenet_300_100(inputs=64)).state_dict()}, f"{seed}.ckpt")
    network = {"class_path": "lightning_lottery.zoo.lenet_300_100", "init_args": {"inputs": 64}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    data = {"class_path": "Digits", "init_args": {"batch_size": 128}}
    snapshots = {"class_path": "Snapshots", "init_args": {"steps": [0]}}
    trainer = {"accelerator": "cpu", "max_epochs": 1, "callbacks": [snapshots]}
    return ["0.ckpt", "1.ckpt"], config({"model": model, "data": data, "trainer": trainer})


def test_path_leaves_a_table_records_a_figure_and_curves(networks, here, capsys):
    files, project = networks
    main(["path", *files, "--config", project, "--alphas", "5", "--out", "line"])
    said = capsys.readouterr().out
    assert "0.ckpt - 1.ckpt" in said and "test_acc over 359 samples" in said
    assert re.search("undecided: mean error barrier 0.[0-9]{4}; one pair gives an estimate, no verdict", said)
    rows = [json.loads(line) for line in (here / "line/results.jsonl").read_text().splitlines()]
    assert sorted({row["alpha"] for row in rows if row["alpha"] is not None}) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {row["metric"] for row in rows} >= {"test_acc", "test_loss", "error_barrier", "error_excess", "l2", "cosine"}
    assert (here / "line/path.png").read_bytes().startswith(b"\x89PNG")
    assert list((here / "line/path").glob("events.*"))
    assert not (here / "snapshots").exists()


def test_path_aligns_and_writes_the_midpoint(networks, here, capsys):
    files, project = networks
    main(["path", *files, "--config", project, "--alphas", "3", "--out", "a", "--align", "--save-midpoint", "mid.ckpt"])
    said = capsys.readouterr().out
    assert "aligned: 2 groups of units" in said and "mean of all networks: test_acc 0." in said
    summary = json.loads((here / "a/summary.json").read_text())
    assert summary["pairs"]["0-1"]["aligned group network.1"]["units"] == 300
    assert torch.load("mid.ckpt", weights_only=True)["state_dict"].keys() == torch.load(files[0])["state_dict"].keys()


def test_path_says_what_is_wrong_with_its_checkpoints(networks, refused):
    files, project = networks
    assert "A line needs two networks" in refused("path", files[0], "--config", project)
    assert "There is no checkpoint 'none.ckpt'" in refused("path", files[0], "none.ckpt", "--config", project)
    assert "does not log 'f1'" in refused("path", *files, "--config", project, "--monitor", "f1")
    assert "both ends 0 and 1" in refused("path", *files, "--config", project, "--alphas", "1")


@pytest.fixture
def analysable(monkeypatch):
    """A project's YAML with a section for the runner, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    return config(fit(instability={"alphas": [0, 0.5, 1], "layer_alphas": [0.5]}))


def test_instability_trains_children_and_judges_them(analysable, here, capsys):
    main(["instability", "--config", analysable, "--seeds", "1,2", "--out", "out", "--instability.threshold", "0.5"])
    said = capsys.readouterr().out
    assert "the common beginning" in said and "child of seed 2 (2/2)" in said and "seed 1 - seed 2" in said
    assert "one pair gives an estimate, no verdict" in said
    summary = json.loads((here / "out/summary.json").read_text())
    assert summary["networks"] == ["seed 1", "seed 2"]
    assert {path.name for path in (here / "out").glob("*.png")} == {"path.png", "layers.png"}
    main(["instability", "--config", analysable, "--seeds", "1,2", "--out", "out", "--instability.threshold", "0.5"])
    assert "child of seed 2 (2/2): done before" in capsys.readouterr().out


def test_the_children_of_a_dry_run_are_commands_that_a_cluster_may_run(analysable, here, capsys):
    command = ["instability", "--config", analysable, "--seeds", "1,2", "--out", "out"]
    main([*command, "--dry-run"])
    listed = capsys.readouterr().out.splitlines()
    folders = [line.rpartition(" child ")[2] for line in listed if not line.startswith("#")]
    assert folders == ["out/start", "out/seed-1", "out/seed-2"] and not (here / "out/lines").exists()
    for folder in folders:
        main(["child", folder])
    capsys.readouterr()
    main(command)
    said = capsys.readouterr().out
    assert said.count(": done before") == 3 and "Records: out/results.jsonl" in said
    main([*command, "--dry-run", "--redo", "seed-2"])
    assert (here / "out/seed-1/done").exists() and not (here / "out/seed-2/done").exists()
    assert not (here / "out/lines").exists()


def test_instability_says_what_is_wrong(analysable, refused, here):
    assert "at least two" in refused("instability", "--config", analysable, "--seeds", "1")
    assert "--seeds are numbers" in refused("instability", "--config", analysable, "--seeds", "a,b")
    assert "--instability.thresold" in refused("instability", "--config", analysable, "--instability.thresold", "1")
    assert "There is no checkpoint" in refused("instability", "--config", analysable, "--ckpt_path", "none.ckpt")
    assert not (here / "runs").exists()


def test_a_section_for_a_runner_does_not_disturb_a_fit(analysable, here, capsys):
    main(["fit", "--config", analysable, "--trainer.max_steps", "1", "--trainer.logger", "false"])


@pytest.fixture
def prunable(monkeypatch):
    """A project's YAML with a section for iterative pruning, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    return config(fit(imp={"levels": 1, "rewind_step": 2, "scope": {"include": ["*mlp*"]}, "margin": 0.5}))


def test_imp_trains_every_level_and_judges_it(prunable, here, capsys):
    command = ["imp", "--config", prunable, "--seeds", "1,2", "--out", "out", "--imp.controls", "[shuffled]"]
    main(command)
    said = capsys.readouterr().out
    assert "seed-2/level-1-shuffled (6/6)" in said and re.search(r"│ 1 +│ 0.7969 +│ ", said)
    summary = json.loads((here / "out/summary.json").read_text())
    assert list(summary["levels"]) == ["level-0", "level-1", "level-1-shuffled"] and summary["seeds"] == [1, 2]
    ticket = Ticket.load(here / "out/seed-2/level-1/ticket.safetensors")
    assert sorted(ticket.masks) == [f"network.vit.layers.0.mlp.fc{n}.weight" for n in (1, 2)]
    main(command)
    assert capsys.readouterr().out.count(": done before") == 6


def test_the_levels_of_a_dry_run_are_commands_in_the_order_of_their_dependence(prunable, here, capsys):
    command = ["imp", "--config", prunable, "--out", "out"]
    main([*command, "--dry-run"])
    folders = [line.rpartition(" child ")[2] for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    assert folders == ["out/seed-0/level-0", "out/seed-0/level-1"] and not list(here.rglob("*.ckpt"))
    for folder in folders:
        main(["child", folder])
    capsys.readouterr()
    main(command)
    assert capsys.readouterr().out.count(": done before") == 2


@pytest.fixture
def sweepable(monkeypatch):
    """A project's YAML with a section for a sweep, and children that run in this process."""
    monkeypatch.setattr("lightning_lottery.children.processes.run_child", in_this_process)
    return config(
        fit(sweep={"steps": [0, 4], "parents": [3], "seeds": [1, 2], "alphas": [0, 0.5, 1], "threshold": 0.9})
    )


def test_sweep_says_from_which_step_on_a_network_is_stable(sweepable, here, capsys):
    command = ["sweep", "--config", sweepable, "--seeds", "1,2,3", "--out", "out", "--sweep.search", "bisect"]
    main(command)
    said = capsys.readouterr().out
    assert "At most 6 trainings of children, beside the parents' 1" in said and "dense: stable from step 0 on." in said
    assert re.findall(r"\((\d)/6\)", said) == ["1", "2", "3", "4", "5", "6"]  # over both steps
    assert json.loads((here / "out/summary.json").read_text())["networks"]["dense"]["step"] == 0
    main(command)
    assert capsys.readouterr().out.count(": done before") == 1 + 2 * 4


def test_the_children_of_a_sweep_s_dry_run_are_those_of_the_steps_it_asks_for_next(sweepable, here, capsys):
    pruner = '{"magnitude": {"class_path": "MagnitudePruning", "init_args": {"sparsity": 0.5}}}'
    command = ["sweep", "--config", sweepable, "--out", "out", "--sweep.pruners", pruner]
    main([*command, "--dry-run"])
    listed = capsys.readouterr().out.splitlines()
    folders = [line.rpartition(" child out/parent-3")[2] for line in listed if line[0] != "#"]
    assert folders[:3] == ["/parent", "/magnitude-step-0/start", "/magnitude-step-4/start"]
    assert len(folders) == 3 + 2 * 4 + 4
    main([*command, "--slurm"])
    assert "To submit: bash " in capsys.readouterr().out and (here / "out/slurm/wave-4.sbatch").is_file()


def test_sweep_says_what_is_wrong(sweepable, refused, here):
    given = ["sweep", "--config", sweepable]
    assert "at least two" in refused(*given, "--seeds", "1")
    assert "needs `steps`" in refused(*given, "--sweep.steps", "[]")
    assert "--sweep.step" in refused(*given, "--sweep.step", "[1]")
    assert "sweep.search" in refused(*given, "--sweep.search", "all")
    assert not (here / "runs").exists()


def test_imp_says_what_is_wrong(prunable, refused, here):
    given = ["imp", "--config", prunable]
    assert "got 1.5" in refused(*given, "--imp.prune_fraction", "1.5")
    assert "either `levels` or a target `sparsity`" in refused(*given, "--imp.sparsity", "0.5")
    assert "--imp.level" in refused(*given, "--imp.level", "1")
    assert "`seeds` are different numbers" in refused(*given, "--seeds", "1,1")
    assert "There is no checkpoint" in refused(*given, "--ckpt_path", "none.ckpt")
    assert not (here / "runs").exists()


def test_shrink_writes_a_smaller_network_that_loads_and_computes_what_the_masked_one_does(here, capsys, refused):
    import transformers

    from lightning_lottery.units.removal import parameter_masks
    from lightning_lottery.zoo import ImageClassifier, vit

    content = fit()
    content["trainer"]["callbacks"] = []
    project = config(content)
    main(["fit", "--config", project, "--trainer.max_steps", "1", "--trainer.logger", "false"])
    (ckpt,) = here.glob("checkpoints/*.ckpt")
    units = {"network.vit.layers.0.mlp.fc1": torch.arange(8) < 4}
    Ticket({}, units=units).save("units.safetensors")
    capsys.readouterr()
    given = ["shrink", "--config", project, "--ckpt_path", str(ckpt), "--submodule", "network"]
    main([*given, "--ticket", "units.safetensors", "--out", "small"])
    said = capsys.readouterr().out
    assert "parameters" in said and "latency" in said
    small = transformers.AutoModelForImageClassification.from_pretrained("small")
    whole = ImageClassifier(vit(**stages.NETWORK["init_args"]))
    whole.load_state_dict(torch.load(ckpt, weights_only=True)["state_dict"])
    Ticket(parameter_masks(whole, units)).apply(whole)
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(small(images).logits, whole.network.eval()(images).logits)
    main([*given, "--heads", "0.5", "--neurons", "0.5", "--out", "half"])
    assert "smaller network: half" in capsys.readouterr().out
    assert "either a ticket, or fractions" in refused(*given)
    assert "has no submodule 'net'" in refused(*given[:-1], "net", "--heads", "0.5")
