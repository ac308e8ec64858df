"""What TensorBoard reads of a folder's event files."""

import re
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, TensorEvent
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata


def board_in(folder: Path, **options: object) -> TensorBoardLogger:
    """A logger that writes straight into a folder."""
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False, **options)


class Board:
    """All that is in a folder's event files, what was purged left out."""

    def __init__(self, folder: Path) -> None:
        self.read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Every curve's points."""
        tags = self.read.Tags()["scalars"]
        return {tag: [(event.step, event.value) for event in self.read.Scalars(tag)] for tag in tags}

    @property
    def images(self) -> list[str]:
        """What images are called."""
        return list(self.read.Tags()["images"])

    def texts(self, tag: str) -> list[str]:
        """The texts under a tag."""
        return [event.tensor_proto.string_val[0].decode() for event in self.events(f"{tag}/text_summary")]

    def events(self, tag: str) -> list[TensorEvent]:
        """The events of a tag that is no curve."""
        return self.read.Tensors(tag) if tag in self.read.Tags()["tensors"] else []

    @property
    def layout(self) -> dict[str, dict[str, list[str]]]:
        """Category to chart to the curves in it: matched by TensorBoard's rule."""
        (event,) = self.events("custom_scalars__config__")
        layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
        return {
            category.title: {
                chart.title: [name for tag in chart.multiline.tag for name in self.curves if re.match(tag, name)]
                for chart in category.chart
            }
            for category in layout.category
        }

    @property
    def settings(self) -> dict[str, object]:
        """The row in the table of runs."""
        content = self.read.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        values = metadata.parse_session_start_info_plugin_data(content).hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}

    @property
    def columns(self) -> tuple[list[str], list[str]]:
        """Which settings and which metrics the table of runs has columns for."""
        content = self.read.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
        experiment = metadata.parse_experiment_plugin_data(content)
        return [info.name for info in experiment.hparam_infos], [info.name.tag for info in experiment.metric_infos]
