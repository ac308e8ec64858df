"""Pictures of TensorBoard's pages of a run, as a browser shows them: ``make screenshots RUN=runs/quickstart``.

It needs Chromium (``apt-get install chromium``, or any Chrome; ``CHROMIUM`` names another binary), and no other package
than this project's. Pictures go to ``OUT``, by default ``RUN/screenshots``.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

PAGES = {
    "scalars": "timeseries",
    "custom-scalars": "custom_scalars",
    "images": "images",
    "text": "text",
    "hparams": "hparams",
}
"""Name of a picture to what TensorBoard calls the page in its address."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str:
    """The path of a Chromium."""
    asked = os.environ.get("CHROMIUM")
    for name in [asked] if asked else BROWSERS:
        if path := shutil.which(name):
            return path
    sys.exit(f"There is no {asked or 'Chromium'}: install it (`apt-get install chromium`), or name one in CHROMIUM.")


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read a run, until the block ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    command += ["--load_fast", "false", "--reload_interval", "5", "--samples_per_plugin", "images=100"]
    address = f"http://localhost:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            runs, before = b"", b" "
            while not runs or runs != before:  # it lists runs as it reads them
                time.sleep(6)
                before = runs
                runs = read(f"{address}/data/runs")
            yield address
        finally:
            server.terminate()


def read(address: str) -> bytes:
    """What is there; nothing while nobody answers."""
    try:
        with urlopen(address, timeout=60) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def shoot(address: str, picture: Path, size: tuple[int, int], seconds: int) -> None:
    """A picture of a page, once so many of its own seconds have gone by."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        command += [f"--virtual-time-budget={1000 * seconds}", f"--screenshot={picture}", address]
        subprocess.run(command, check=True, timeout=300, stderr=subprocess.DEVNULL)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of TensorBoard's pages of a run.")
    parser.add_argument("run", type=Path, help="folder of a run, as for tensorboard --logdir")
    parser.add_argument("--out", type=Path, help="folder of the pictures; default: RUN/screenshots")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--runs", default="", help="regular expression of the runs that are shown; default: all")
    parser.add_argument("--height", type=int, default=1600, help="of the window, pixels")
    parser.add_argument("--dark", action="store_true", help="TensorBoard's dark mode")
    options = parser.parse_args()
    if not options.run.is_dir():
        sys.exit(f"There is no folder '{options.run}'.")
    out = options.out or options.run / "screenshots"
    out.mkdir(parents=True, exist_ok=True)
    shown = quote(options.runs, safe="")
    asked = f"?darkMode={str(options.dark).lower()}&runFilter={shown}"
    with tensorboard(options.run) as address:
        for page in options.pages:
            shoot(
                f"{address}/{asked}#{PAGES[page]}&regexInput={shown}",
                out / f"{page}.png",
                (1600, options.height),
                seconds=40,
            )
            print(out / f"{page}.png")


if __name__ == "__main__":
    main()
