"""A callback that writes down what it meets in its process, and leaves something of every kind behind."""

import json
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from threadpoolctl import threadpool_info


class Leaves(Callback):
    """What a child meets goes to ``met.json`` in its folder; then it changes all of that for whoever shares it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look, and leave."""
        path = Path(trainer.default_root_dir) / "met.json"
        if path.exists():
            return
        path.write_text(json.dumps(met()))
        print("met", flush=True)
        os.environ["LEFT"] = "1"
        os.environ["PL_LEFT"] = "1"
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.set_flush_denormal(True)
        torch.backends.mkldnn.enabled = False
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("lightning.pytorch").setLevel(logging.CRITICAL)
        sys.path.append("left")
        sys.modules["left"] = sys.modules["json"]
        os.open(path.with_name("left.txt"), os.O_CREAT)
        os.chdir("/")
        os.umask(0o777)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        torch.set_default_dtype(torch.float32)  # or the fit itself would be another
        os.umask(0o022)


def met() -> dict[str, Any]:
    """What there is in this process that a child before it may have left."""
    return {
        "environment": {name: value for name, value in os.environ.items() if "LEFT" in name},
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "threads of libraries": sorted({library["num_threads"] for library in threadpool_info()}),
        "oneDNN": torch.backends.mkldnn.enabled,
        "handlers": len(logging.getLogger().handlers),
        "level": logging.getLogger("lightning.pytorch").level,
        "left": "left" in sys.path or "left" in sys.modules,
        "folder": os.getcwd(),
        "hang up": str(signal.getsignal(signal.SIGHUP)),
        "interrupt": str(signal.getsignal(signal.SIGINT)).split(" at ")[0],
        "seed": [torch.initial_seed(), float(np.random.rand()), random.random()],
        "open": [
            str(path) for path in Path("/proc/self/fd").iterdir() if path.exists() and "left" in path.resolve().name
        ],
        "arguments": sys.argv[1:],
    }
