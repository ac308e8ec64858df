"""A small folder of images in one subfolder per class."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, splits: tuple[str, ...], count: int = 4) -> str:
    """Two classes of noise, in colours that tell the class, of sizes that differ."""
    draw = np.random.RandomState(0)
    for split in splits:
        for label, name in enumerate(("ant", "bee")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.randint(0, 90, (20 + number, 24, 3), dtype=np.uint8) + 160 * np.array(
                    [label, 0, 1 - label]
                )
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")
    return str(folder)
