"""The subcommands: what each does, what it takes, and what answers it. Nothing slow is imported to know that."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from lightning_lottery.command.signatures import Argument, arguments_of

TRAINER = "lightning.pytorch.trainer.trainer"
FROM_PYTHON = {"model", "data", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
"""Arguments of the Trainer's methods that no option gives."""


@dataclass(frozen=True)
class Option:
    """An option of a subcommand of ours, or what stands at a position.

    Args:
        name: With underscores.
        help: What it is.
        value: How help shows its value; empty for one that has none.
        default: Its value where it is not there.
        make: Of the word on the command line.
        kind: ``"option"``, ``"position"`` (one word), ``"perhaps"`` (one or none), ``"several"`` words, ``"again"`` for
            an option that may be there several times.
        is_required: Whether it has to be there; where ``--plan`` is, nothing has to.
        words: What it may be, where that is known.
    """

    name: str
    help: str
    value: str = ""
    default: Any = None
    make: type = str
    kind: str = "option"
    is_required: bool = False
    words: tuple[str, ...] = ()

    @property
    def is_position(self) -> bool:
        """Whether it stands at a position, without a name."""
        return self.kind in ("position", "perhaps", "several")

    def add_to(self, parser: Any) -> None:
        """Add it to a parser of argparse's or jsonargparse's."""
        if self.is_position:
            number = {"position": None, "perhaps": "?", "several": "+" if self.is_required else "*"}[self.kind]
            parser.add_argument(self.name, help=self.help, **({"nargs": number} if number else {}))
        elif not self.value:
            parser.add_argument(f"--{self.name}", action="store_true", help=self.help)
        elif self.kind == "again":
            parser.add_argument(f"--{self.name}", action="append", default=[], help=self.help)
        else:
            words = {"default": self.default, "type": self.make, "required": self.is_required, "help": self.help}
            parser.add_argument(f"--{self.name}", **words)


@dataclass(frozen=True)
class Signature:
    """Options that are the arguments of a function or class.

    Args:
        module: Where it stands.
        name: Of the function or class.
        skip: Arguments that are none.
        section: Of the YAML that holds them, which is the beginning of their names.
    """

    module: str
    name: str
    skip: frozenset[str] = frozenset()
    section: str = ""

    @property
    def arguments(self) -> list[Argument]:
        """The arguments that are options."""
        return [argument for argument in arguments_of(self.module, self.name) if argument.name not in self.skip]


@dataclass(frozen=True)
class Subcommand:
    """A subcommand.

    Args:
        name: Its name.
        does: What it does, in a sentence.
        answer: The file of this folder and its function that answers it; empty for Lightning's.
        examples: Command lines, each without the program's name.
        more: What else help says, in sentences.
        options: Its options that nothing else says.
        signature: Of which it takes the arguments.
        is_on_project: Whether it takes a project: fit's YAML, and every option of ``fit``.
        imports_zoo: Whether the short names of the zoo's classes are to be known when it begins.
    """

    name: str
    does: str
    answer: str = ""
    examples: tuple[str, ...] = ()
    more: str = ""
    options: tuple[Option, ...] = ()
    signature: Signature | None = None
    is_on_project: bool = False
    imports_zoo: bool = True

    @cached_property
    def names(self) -> list[str]:
        """Every option of its own, whole."""
        signature = self.signature
        section = f"{signature.section}." if signature and signature.section else ""
        read = [section + argument.name for argument in signature.arguments] if signature else []
        return [*(option.name for option in self.options if not option.is_position), *read]


SECTIONS = {
    "instability": Signature("lightning_lottery.experiments.instability", "InstabilityAnalysis", section="instability"),
    "sweep": Signature("lightning_lottery.experiments.sweep", "InstabilitySweep", section="sweep"),
    "imp": Signature("lightning_lottery.experiments.imp", "IterativePruning", section="imp"),
}
"""Sections of a YAML that an experiment reads, beside what ``fit`` reads."""

CKPT_PATH = Option("ckpt_path", "checkpoint that children begin at; default: none, the module as built", "FILE")


def _out(folder: str) -> Option:
    return Option("out", "folder for children, records, figures and curves", "FOLDER", default=folder)


def _of_experiment(name: str, seeds: str, *more: Option) -> tuple[Option, ...]:
    return (
        Option("seeds", seeds, "N,N,..."),
        *more,
        Option("jobs", "children trained at once, each with its share of devices", "N", default=1, make=int),
        _out(f"runs/{name}"),
        Option("redo", "child to run again, and what depends on it; may be repeated", "CHILD", kind="again"),
        Option("dask", "address of a Dask scheduler whose workers train the children", "ADDRESS"),
        Option("dry_run", "only print the commands of the children, for a cluster"),
        Option("slurm", "only write SLURM job arrays of them into OUT/slurm"),
    )


_EVERY = (
    Subcommand(
        "fit",
        "Train a project, with the callbacks of its YAML.",
        examples=(
            "fit --config mine.yaml",
            "fit --config mine.yaml --trainer.callbacks+=PLATON --trainer.callbacks.sparsity=0.8",
            "fit --model mine.Net --data mine.Data --print_config",
        ),
        more="Without a YAML yet: the last example prints one to begin with.",
        is_on_project=True,
    ),
    Subcommand(
        "validate",
        "Validate a checkpoint of a project.",
        examples=("validate --config mine.yaml --ckpt_path last.ckpt",),
        is_on_project=True,
    ),
    Subcommand(
        "test",
        "Test a checkpoint of a project.",
        examples=("test --config mine.yaml --ckpt_path last.ckpt",),
        is_on_project=True,
    ),
    Subcommand(
        "predict",
        "Predict with a checkpoint of a project.",
        examples=("predict --config mine.yaml --ckpt_path last.ckpt",),
        is_on_project=True,
    ),
    Subcommand(
        "explain",
        "Print what a fit would prune, when, and at what cost in memory, without training.",
        "explain:explain_fit",
        examples=("explain --config mine.yaml --trainer.callbacks+=PLATON --trainer.callbacks.sparsity=0.8",),
        is_on_project=True,
    ),
    Subcommand(
        "ticket",
        "Show a ticket, compare several, set what one removes to zero in a checkpoint, or move one to another network.",
        "ticket:ticket",
        examples=(
            "ticket show ticket.safetensors",
            "ticket show ticket.safetensors --config mine.yaml",
            "ticket show runs/mine/seed-*/02-snip/ticket.safetensors --config mine.yaml --out effective.json",
            "ticket diff a.safetensors b.safetensors",
            "ticket diff runs/imp/seed-*/level-3/ticket.safetensors",
            "ticket apply ticket.safetensors --ckpt_path last.ckpt --out masked.ckpt",
            "ticket apply ticket.safetensors --config mine.yaml --out masked.ckpt",
            "ticket transport ticket.safetensors --source a.ckpt --target b.ckpt --config mine.yaml",
        ),
        more=(
            "`apply` masks the weights of a checkpoint, or of the module that a configuration builds. `show` with a "
            "configuration also counts dead units, weights on no path to the output, and multiply-adds on a batch. "
            "`transport` puts a ticket into the order of units in which its dense network, trained, lies nearest to "
            "another one, for the initialisation of that one."
        ),
        options=(
            Option(
                "action",
                "show, diff, apply or transport",
                kind="position",
                is_required=True,
                words=("show", "diff", "apply", "transport"),
            ),
            Option(
                "tickets", "one ticket; for diff two or more, for show any number", kind="several", is_required=True
            ),
            Option("ckpt_path", "apply: checkpoint whose weights are masked", "FILE"),
            Option("config", "transport, show, or apply in place of a checkpoint: the project, fit's YAML", "FILE"),
            Option("source", "transport: checkpoint of the dense network that the ticket comes from", "FILE"),
            Option("target", "transport: checkpoint of the dense network that it goes to", "FILE"),
            Option(
                "prefix", "show, apply: what the ticket's names begin with and the module's do not", "TEXT", default=""
            ),
            Option(
                "out",
                "where it goes: apply's masked.ckpt, transport's moved.safetensors, diff's and show's JSON",
                "FILE",
            ),
        ),
    ),
    Subcommand(
        "shrink",
        "Write a smaller network: without the heads, neurons and channels that a ticket or fractions remove.",
        "shrink:write_shrunk",
        examples=("shrink --config mine.yaml --ckpt_path last.ckpt --ticket runs/early_bird/first.safetensors",),
        signature=Signature("lightning_lottery.command.shrink", "shrink_checkpoint"),
    ),
    Subcommand(
        "path",
        "Judge finished networks: the straight line between every two checkpoints, and its error barrier.",
        "path:judge_checkpoints",
        examples=(
            "path a.ckpt b.ckpt --config mine.yaml",
            "path a.ckpt b.ckpt --config mine.yaml --align",
            "path a.ckpt b.ckpt c.ckpt --config mine.yaml --soup --save_midpoint soup.ckpt",
        ),
        more=(
            "With --soup the exit code is the verdict: 0 the networks may be averaged, 3 only some of them or only "
            "some layers, 4 not, 5 undecided."
        ),
        options=(
            Option(
                "ckpt_paths",
                "Lightning checkpoints or plain state dicts, at least two",
                kind="several",
                is_required=True,
            ),
            Option("config", "the project: fit's YAML", "FILE", is_required=True),
            Option("model", "package.Class, where the YAML names none", "CLASS"),
            Option("data", "package.Class, where the YAML names none", "CLASS"),
            Option(
                "align",
                "also the line to each second network with its units in the order of the first's (git re-basin)",
            ),
            Option(
                "soup",
                "also whether they may be averaged: all, else a greedy soup of some, else only some layers",
            ),
            Option("predict", "package.module:function of predicted classes, to compare them", "ADDRESS"),
            Option("out", "folder for records, figures and curves", "FOLDER", default="runs/path"),
        ),
        signature=Signature(
            "lightning_lottery.connectivity.path",
            "path",
            # What the configuration gives; what no command line can say; what is said otherwise above.
            frozenset(
                {"module", "data", "trainer", "memory", "allow_diverged", "ckpt_paths", "align", "soup", "predict"}
            ),
        ),
    ),
    Subcommand(
        "instability",
        "Train children of one checkpoint with different seeds, then judge the straight lines between them.",
        "experiments:instability",
        examples=("instability --config mine.yaml --ckpt_path k.ckpt --seeds 1,2,3",),
        options=_of_experiment(
            "instability",
            "of the children, such as 1,2,3; default: the YAML's, else 1,2",
            CKPT_PATH,
            Option("ticket", "whose masks every child keeps", "FILE"),
        ),
        signature=SECTIONS["instability"],
        is_on_project=True,
    ),
    Subcommand(
        "sweep",
        "From which step on is a network stable to SGD noise? Instability analyses at many steps of several parents.",
        "experiments:sweep",
        examples=("sweep --config mine.yaml --sweep.steps [0,10,30,100,300] --sweep.search bisect",),
        options=_of_experiment(
            "sweep", "of the children of the first parent, such as 1,2,3; default: the YAML's, else 1,2,3"
        ),
        signature=SECTIONS["sweep"],
        is_on_project=True,
    ),
    Subcommand(
        "imp",
        "Iterative pruning with rewinding: train, remove a fraction of what remains, rewind, level by level.",
        "experiments:imp",
        examples=("imp --config mine.yaml --imp.sparsity 0.9 --imp.rewind_step 100 --seeds 0,1,2",),
        options=_of_experiment("imp", "each trains all levels, such as 0,1,2; default: the YAML's, else 0", CKPT_PATH),
        signature=SECTIONS["imp"],
        is_on_project=True,
    ),
    Subcommand(
        "predict-tickets",
        "Does stability at a step go with a good ticket found there? Read from a finished sweep and iterative pruning.",
        "predict_tickets:predict",
        examples=("predict-tickets runs/sweep runs/imp", "predict-tickets --plan r=0.5,steps=7"),
        options=(
            Option("sweep", "folder of a finished sweep", kind="perhaps", is_required=True),
            Option(
                "imps",
                "folders of finished iterative pruning, rewound to steps of the sweep",
                kind="several",
            ),
            Option("out", "folder for points, summary and figure", "FOLDER", default="runs/predict-tickets"),
            Option("plan", "r=0.5[,steps=7]: only say how many parents show such a correlation", "TEXT"),
        ),
        signature=Signature(
            "lightning_lottery.experiments.prediction", "predict_tickets", frozenset({"sweep", "imps"})
        ),
    ),
    Subcommand(
        "plot",
        "Draw finished or half-done runs, several of a kind in one picture: pruning, sweeps, analyses, recipes.",
        "plot:plot",
        examples=(
            "plot runs/imp",
            "plot early=runs/imp-0 late=runs/imp-500",
            "plot runs/sweep runs/sweep-of-tickets",
            "plot runs/quickstart",
        ),
        more="Runs of one NAME are one run, as those of several seeds are. What is missing is said, the rest drawn.",
        imports_zoo=False,
        options=(
            Option("runs", "folders of runs, each also as NAME=FOLDER", kind="several", is_required=True),
            Option("out", "folder for the pictures, each as PNG and SVG", "FOLDER", default="runs/plot"),
        ),
    ),
    Subcommand(
        "run",
        "Run the numbered stages of a recipe folder over seeds; what is done is not run again.",
        "run:run",
        examples=("run quickstart --seeds 0,1,2 --jobs 2",),
        more="`lightning-lottery new-recipe` copies a recipe to begin with.",
        imports_zoo=False,  # `run` does it itself, once there is a recipe to run
        options=(
            Option("recipe", "folder with stages 01-NAME.SUBCOMMAND.yaml, 02-...", kind="position", is_required=True),
            Option("seeds", "one run of all stages for each", "N,N,...", default="0"),
            Option("redo", "stage to run again, and what depends on it; may be repeated", "STAGE", kind="again"),
            Option(
                "overlay",
                "YAML laid over every stage's; may be repeated, later ones over earlier",
                "YAML",
                kind="again",
            ),
        ),
        signature=Signature(
            "lightning_lottery.experiments.recipe", "run_recipe", frozenset({"recipe", "seeds", "redo", "overlay"})
        ),
    ),
    Subcommand(
        "new-recipe",
        "Copy a recipe of this package into a folder, to run and to change; without a name: list them.",
        "new_recipe:new_recipe",
        examples=("new-recipe", "new-recipe quickstart", "new-recipe quickstart experiments/mine"),
        imports_zoo=False,
        options=(
            Option("recipe", "its name", kind="perhaps"),
            Option("folder", "where to; default: a folder of the recipe's name", kind="perhaps"),
        ),
    ),
    Subcommand(
        "completion",
        "Print a script by which bash or zsh completes subcommands, options and files.",
        "completion:completion",
        examples=("completion >> ~/.bashrc",),
        imports_zoo=False,
    ),
    Subcommand(
        "child",
        "Run the child of one folder: what `run` and the experiments start for each.",
        "child:child",
        examples=("child runs/instability/seed-1",),
        options=(
            Option("folder", "the child's folder", kind="position", is_required=True),
            Option("wait", "wait where another process is in the folder"),
        ),
    ),
)

SUBCOMMANDS = {subcommand.name: subcommand for subcommand in _EVERY}
"""By name, in the order in which help lists them."""

LIGHTNINGS = tuple(name for name, subcommand in SUBCOMMANDS.items() if not subcommand.answer)
"""The subcommands that Lightning itself runs."""


def options_of_fit(subcommand: str) -> Iterator[str]:
    """What a subcommand on a project takes beside its own options, whole; deeper keys belong to classes.

    Args:
        subcommand: Lightning's, or one of ours, which takes what ``fit`` takes.
    """
    method = subcommand if subcommand in LIGHTNINGS else "fit"
    yield from ("config", "print_config", "seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler")
    for argument in arguments_of(TRAINER, f"Trainer.{method}"):
        if argument.name not in FROM_PYTHON:
            yield argument.name
    for argument in arguments_of(TRAINER, "Trainer"):
        yield f"trainer.{argument.name}"
    for section, signature in SECTIONS.items():
        yield section
        yield from (f"{section}.{argument.name}" for argument in signature.arguments)


@cache
def options_of(name: str) -> tuple[str, ...]:
    """Every option of a subcommand, whole: its own, then those of ``fit`` where it takes a project."""
    subcommand = SUBCOMMANDS[name]
    of_fit = options_of_fit(name) if subcommand.is_on_project else ()
    return tuple(dict.fromkeys([*subcommand.names, *of_fit]))
