"""What a finished child was made from: configurations and input files, and how two of them differ."""

from collections.abc import Iterator, Mapping
from typing import Any

CHANGE_NOTHING = (
    "enable_model_summary",
    "enable_progress_bar",
    "default_root_dir",
    "log_every_n_steps",
    "logger",
    "profiler",
)
"""Arguments of the Trainer that change what is shown and written beside a training, and nothing of what is trained."""

LEFT_OPEN = {
    "limit_predict_batches": 1.0,
    "limit_test_batches": 1.0,
    "limit_train_batches": 1.0,
    "limit_val_batches": 1.0,
    "num_sanity_val_steps": 2,
    "overfit_batches": 0.0,
    "precision": "32-true",
    "val_check_interval": 1.0,
}
"""What the Trainer (Lightning 2.6) takes for its arguments that are None; of the others None is no value's equal."""


def what_is_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what changes nothing of the training, and with what the Trainer takes for None."""
    config = {name: _without_what_is_logged(value) for name, value in config.items()}
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping):
        return config
    kept = {
        name: LEFT_OPEN.get(name) if value is None else value
        for name, value in trainer.items()
        if name not in CHANGE_NOTHING
    }
    return {**config, "trainer": kept}


def _without_what_is_logged(value: Any) -> Any:
    """A value of a configuration whose callbacks of ours do not say what they log of layers."""
    if isinstance(value, (list, tuple)):
        return [_without_what_is_logged(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    kept = {name: _without_what_is_logged(inner) for name, inner in value.items()}
    if str(kept.get("class_path")).startswith("lightning_lottery.") and isinstance(kept.get("init_args"), dict):
        kept["init_args"].pop("log_layers", None)
    return kept


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a nested configuration under its dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{key}[{index}]")
    else:
        yield key, value


def shown(difference: list[str]) -> str:
    """The first few of many differences, in one line."""
    return "; ".join(difference[:5]) + ("; ..." if len(difference) > 5 else "")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What changed between two fingerprints, a sentence's part each."""
    old, new = dict(leaves(before)), dict(leaves(now))
    for key in sorted(old.keys() | new.keys()):
        before_key, now_key = old.get(key), new.get(key)
        # To Lightning 1 batch and 1.0, all of them, are two things, to `==` one.
        if before_key != now_key or (key.startswith("config.trainer.") and type(before_key) is not type(now_key)):
            if key.startswith("inputs."):
                yield f"the file {key.removeprefix('inputs.')} has changed"
            else:
                yield f"{key.removeprefix('config.')} was {_short(before_key)}, is {_short(now_key)}"


def _short(value: Any) -> str:
    """A value as a sentence can hold it: a whole file's text, say, would bury what else has changed."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}...{text[-1]}"
