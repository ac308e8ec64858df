"""Pictures of TensorBoard's pages of a run, as a browser shows them: ``make screenshots RUN=runs/quickstart``.

It needs Chromium (``apt-get install chromium``, or any Chrome; CHROMIUM names another binary), and no package that this
project has not. Pictures go to ``RUN/screenshots``, or where ``--out`` says.
"""

import argparse
import base64
import json
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
from typing import Any
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

SHOW_ALL = """
const all = root => [...root.querySelectorAll("*")].flatMap(
    one => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])]);
const click = (tag, label) => all(document).filter(
    one => one.localName == tag && `${one.ariaLabel} ${one.innerText}`.includes(label)).forEach(one => one.click());
click("button", "Expand group");
click("button", "Close side pane");
click("paper-checkbox", "Show actual image size");
"""
"""Opens the groups of cards that the first page has folded, in the room of its settings, and shows images as drawn."""


class Browser:
    """A Chromium without a window, told what to do by its own protocol over a pipe."""

    def __init__(self, profile: str, size: tuple[int, int]) -> None:
        asked = os.environ.get("CHROMIUM")
        path = next((path for name in ([asked] if asked else BROWSERS) if (path := shutil.which(name))), None)
        if path is None:
            sys.exit(f"There is no {asked or 'Chromium'}: `apt-get install chromium`, or name one in CHROMIUM.")
        theirs, self.to = os.pipe()
        self.answers, theirs_too = os.pipe()

        def as_three_and_four() -> None:  # where it reads and writes
            first, second = os.dup(theirs), os.dup(theirs_too)
            os.dup2(first, 3)
            os.dup2(second, 4)

        command = [path, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        self.process = subprocess.Popen(
            command, preexec_fn=as_three_and_four, pass_fds=(3, 4), stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(theirs_too)
        self.number, self.rest = 0, b""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Do something, and wait for its answer."""
        self.number += 1
        session = {"sessionId": self.session} if hasattr(self, "session") else {}
        message = {"id": self.number, "method": method, "params": arguments, **session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                if not (part := os.read(self.answers, 1 << 20)):
                    sys.exit("The browser has ended.")
                self.rest += part
            text, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}.")
                return dict(answer["result"])

    def picture(self) -> bytes:
        """What is seen now, as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(size: tuple[int, int]) -> Iterator[Browser]:
    """A browser with a window of this size, until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(profile, size)
        try:
            yield started
        finally:
            started.process.terminate()
            started.process.wait(timeout=30)


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read a run, until the block ends."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    command += ["--load_fast", "false", "--reload_interval", "5"]
    address = f"http://localhost:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            runs, before = b"", b" "
            while not json.loads(runs or "[]") or runs != before:  # it lists them as it reads them
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


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description="Pictures of TensorBoard's pages of a run.")
    parser.add_argument("run", type=Path, help="folder of a run, as for tensorboard --logdir")
    parser.add_argument("--out", type=Path, help="folder of the pictures; default: RUN/screenshots")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--runs", default="", help="regular expression of the runs that are shown; default: all")
    parser.add_argument("--tags", default="", help="regular expression of the tags on the first page; default: all")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1200), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, default=16, help="how long a page has to load and draw")
    parser.add_argument("--dark", action="store_true", help="TensorBoard's dark mode")
    options = parser.parse_args()
    if not options.run.is_dir():
        sys.exit(f"There is no folder '{options.run}'.")
    out = options.out or options.run / "screenshots"
    out.mkdir(parents=True, exist_ok=True)
    runs, tags = quote(options.runs, safe=""), quote(options.tags, safe="")
    asked = f"?darkMode={str(options.dark).lower()}&runFilter={runs}&tagFilter={tags}"
    with tensorboard(options.run) as address, browser(options.size) as window:
        for page in options.pages:
            window.ask("Page.navigate", url="about:blank")  # another hash alone would load nothing
            window.ask("Page.navigate", url=f"{address}/{asked}#{PAGES[page]}&regexInput={runs}")
            time.sleep(options.seconds / 2)
            window.ask("Runtime.evaluate", expression=f"{{{SHOW_ALL}}}")
            time.sleep(options.seconds / 2)
            (out / f"{page}.png").write_bytes(window.picture())
            print(out / f"{page}.png")


if __name__ == "__main__":
    main()
