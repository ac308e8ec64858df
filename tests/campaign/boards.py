"""What TensorBoard shows of a folder, and event files in the order in which they were written."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every event of every curve."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(events.Tags()["scalars"])
    }


def texts_and_layout(folder: Path) -> dict[str, list[tuple[int, bytes]]]:
    """Every text, and the layout of charts."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {
        tag: [(event.step, event.tensor_proto.SerializeToString()) for event in events.Tensors(tag)]
        for tag in sorted(events.Tags()["tensors"])
    }


def in_order(folder: Path, life: int) -> None:
    """Name the event files that a life left by its number.

    TensorBoard reads them by name, which begins with the second and goes on with the process: of two lives in one
    second, which only forks have, the later one may come first.
    """
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        if not path.name.startswith("events.out.tfevents.life-"):
            path.rename(path.with_name(f"events.out.tfevents.life-{life:02}.{path.name.rpartition('.')[2]}"))
