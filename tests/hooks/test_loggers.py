"""What callbacks measure reaches every logger, at the step that loggers count."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from helpers.boards import Board, board_in
from helpers.loggers import Online
from helpers.projects import fit, trainer
from lightning_lottery import PLATON
from lightning_lottery.hooks.loggers import (
    device_of,
    draw_to_all,
    folder_of,
    log_to_all,
    pixels,
    takes_figures,
    without_repeats,
)


class Keeps(CSVLogger):
    """Keeps what is logged, in memory."""

    def __init__(self, folder, name):
        super().__init__(folder, name=name, version="")
        self.seen = []

    def log_metrics(self, metrics, step=None):
        self.seen.append((dict(metrics), step))


def test_scalars_reach_every_logger_at_every_step_whatever_the_interval_is(tmp_path):
    class Logs(Callback):
        def on_train_batch_end(self, trainer, *_):
            log_to_all(trainer, {"mine": trainer.global_step})

    both = [Keeps(tmp_path, "one"), Keeps(tmp_path, "two")]
    fit(tmp_path, Logs(), logger=both, log_every_n_steps=100)
    for logger in both:
        mine = [(metrics["mine"], step) for metrics, step in logger.seen if "mine" in metrics]
        assert [value for value, _ in mine] == list(range(1, 13))
        steps = [step for _, step in mine]
        assert steps == list(range(steps[0], steps[0] + 12))


def test_a_step_that_is_named_is_the_step(tmp_path):
    logger = Keeps(tmp_path, "one")
    log_to_all(trainer(tmp_path, logger=logger), {"mine": 1.0}, step=7)
    assert logger.seen == [({"mine": 1.0}, 7)]


def test_figures_reach_the_loggers_that_take_images_and_no_others(tmp_path):
    figure = Figure(figsize=(2, 1))
    online, board, csv = Online(), board_in(tmp_path / "board"), CSVLogger(tmp_path / "csv")
    about = SimpleNamespace(loggers=[csv, online, SimpleNamespace(experiment=object()), board])
    draw_to_all(about, "key", figure, 3)
    board.experiment.flush()
    assert online.images == [("key", (80, 160, 3), 3)]
    (image,) = Board(tmp_path / "board").read.Images("key")
    assert (image.step, image.width, image.height) == (3, 160, 80)
    assert takes_figures(SimpleNamespace(loggers=[csv, online])) and takes_figures(SimpleNamespace(loggers=[board]))
    assert not takes_figures(SimpleNamespace(loggers=[csv]))


def test_a_figure_s_pixels_are_what_is_drawn():
    figure = Figure(figsize=(2, 1), facecolor="black")  # as a notebook's in dark mode
    figure.add_axes((0.5, 0, 0.5, 1)).set(facecolor="red", xticks=[], yticks=[])
    image = pixels(figure)
    assert image.shape == (80, 160, 3)
    assert (image[:, :70] == 255).all() and (image[10:70, 90:150] == (255, 0, 0)).all()


@pytest.mark.pictures
def test_loggers_that_are_not_tensorboard_get_scalars_and_figures_and_without_any_there_are_files_alone(tmp_path):
    online, csv = Online(), CSVLogger(tmp_path / "csv", name="", version="")
    fit(tmp_path / "logged", PLATON(0.5, interval=2, begin=1, end=9), logger=[csv, online])
    for folder, more in ((tmp_path / "csv", {}), (tmp_path / "alone", {"logger": False})):
        if more:
            fit(folder, PLATON(0.5, interval=2, begin=1, end=9), **more)
        assert (folder / "pruning.png").read_bytes().startswith(b"\x89PNG")
        assert not list(folder.rglob("events.out.tfevents.*"))
    reached = [values["sparsity/scope"] for _, values in online.metrics if "sparsity/scope" in values]
    assert reached[-1] == 0.5 and {key for key, *_ in online.images} == {"pruning"}


@pytest.mark.parametrize("logs", [True, False])
def test_files_go_to_the_loggers_folder_or_to_the_trainers_root(logs, tmp_path):
    logger = CSVLogger(tmp_path / "logs", name="a", version="b") if logs else False
    expected = tmp_path / "logs" / "a" / "b" if logs else tmp_path
    assert folder_of(trainer(tmp_path, logger=logger)) == expected


def test_the_cpu_is_called_so(tmp_path):
    assert device_of(trainer(tmp_path)) == "cpu"


def test_what_loggers_have_of_a_step_is_kept_from_them_in_the_block_alone(tmp_path):
    logger = Keeps(tmp_path, "one")
    with pytest.raises(RuntimeError, match="night"), without_repeats([logger], 3):
        for step in (2, 3, 4, None):
            logger.log_metrics({"mine": 1.0}, step=step)
        raise RuntimeError("night")
    logger.log_metrics({"mine": 1.0}, 2)
    assert [step for _, step in logger.seen] == [4, None, 2] and "log_metrics" not in vars(logger)


@pytest.mark.parametrize("when", ["before", "inside"])
def test_what_somebody_else_has_put_in_the_place_of_a_logger_s_method_stays_there(tmp_path, when):
    logger = Keeps(tmp_path, "one")

    def wrapped():
        log = logger.log_metrics
        logger.log_metrics = lambda metrics, step=None: log({"theirs": 1.0, **metrics}, step)

    if when == "before":
        wrapped()
    with without_repeats([logger], 3):
        if when == "inside":
            wrapped()
        logger.log_metrics({}, 3)
        logger.log_metrics({}, 4)
    logger.log_metrics({}, 2)
    assert logger.seen == [({"theirs": 1.0}, 4), ({"theirs": 1.0}, 2)]


class Runs:
    """MLflow's client, as much of it as takes images: which run, the image, and under which path it lies."""

    def __init__(self):
        self.images = []

    def log_image(self, run_id, image, artifact_file):
        self.images.append((run_id, image.shape, artifact_file))


class Experiment:
    """Comet's, as much of it as takes images."""

    def __init__(self):
        self.images = []

    def log_image(self, image_data, name=None, overwrite=False, *, step=None):
        self.images.append((image_data.shape, name, step))


def test_figures_reach_mlflow_and_comet_in_the_ways_that_these_document():
    mlflow, comet = Runs(), Experiment()
    about = SimpleNamespace(loggers=[SimpleNamespace(experiment=mlflow, run_id="r"), SimpleNamespace(experiment=comet)])
    assert takes_figures(about)
    draw_to_all(about, "key", Figure(figsize=(2, 1)), 3)
    assert mlflow.images == [("r", (80, 160, 3), "key/step-3.png")]
    assert comet.images == [((80, 160, 3), "key", 3)]
