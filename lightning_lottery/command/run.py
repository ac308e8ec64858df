"""``lightning-lottery run``: the numbered stages of a recipe folder over seeds."""

from collections.abc import Sequence
from pathlib import Path

from lightning_lottery.command.options import parsed, parser_of, seeds_of
from lightning_lottery.experiments.recipe import run_recipe
from lightning_lottery.experiments.stages import stages_of


def run(arguments: Sequence[str]) -> None:
    """Run a recipe."""
    options = parsed(parser_of("run", run_recipe), arguments).as_dict()
    seeds = seeds_of(options.pop("seeds"))
    stages_of(Path(options["recipe"]))  # refuses a recipe that is not there before anything slow is imported
    # The classes of the zoo answer to their short names in YAML once they are imported.
    import lightning_lottery.zoo  # noqa: F401

    run_recipe(options.pop("recipe"), seeds, **options)
