"""``lightning-lottery path``: the straight lines between finished networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lightning_lottery.children.cli import BuiltCLI
from lightning_lottery.children.factories import imported
from lightning_lottery.children.records import commit_here, stamped
from lightning_lottery.command.options import parsed, parser_of
from lightning_lottery.connectivity.averaging import Verdict
from lightning_lottery.connectivity.path import path
from lightning_lottery.experiments.report import write
from lightning_lottery.experiments.sections import SECTIONS
from lightning_lottery.hooks.quiet import without_noise

WITHOUT_CALLBACKS = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "callbacks": []}
"""Arguments of the Trainer that evaluates: the project's own callbacks would prune, or write files."""

EXIT_CODES: Mapping[Verdict, int] = {
    "may be averaged": 0,
    "only these networks": 3,
    "only these layers": 3,
    "not": 4,
    "undecided": 5,
}
"""How the command ends with `--soup`, for scripts; 2 is a mistake in what was asked."""


def judge_checkpoints(arguments: Sequence[str]) -> None:
    """Judge the lines between checkpoints, and write the report; with ``--soup`` the verdict is the exit code, too."""
    options = parsed(parser_of("path", path), arguments).as_dict()
    out, predict = Path(options.pop("out")), options.pop("predict")
    named = {f"--{section}": options.pop(section) for section in ("model", "data")}
    classes = [word for option, name in named.items() if name for word in (option, name)]
    fit = ["fit", "--seed_everything", "0", *classes, "--config", options.pop("config")]
    with without_noise():
        project = BuiltCLI(fit, sections=SECTIONS, trainer=lambda _: WITHOUT_CALLBACKS)
        report = path(
            project.model,
            project.datamodule,
            trainer=project.trainer,
            predict=imported(predict) if predict else None,
            **options,
        )
        if project.trainer.is_global_zero:
            rows = stamped(report.rows(), commit_here())
            write(report, out, run="path", rows=rows)
            report.save(out / "report.json")  # which `plot` reads
            console = Console()
            console.print(report.table())
            console.print(f"{' '.join(report.sentences())} Records: {out}", soft_wrap=True)
    # Of the first rank alone: a launcher takes such an end of another one for a crash, and ends all.
    code = EXIT_CODES[report.averaging.verdict] if report.averaging else 0
    if code and project.trainer.is_global_zero:
        raise SystemExit(code)
