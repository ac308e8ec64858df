"""What tests of the command share: a folder of their own to work in, and how a mistake is told."""

import re

import pytest

from lightning_lottery.command.main import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs the command, expects exit code 2, and gives the one line that it left on stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        written = capsys.readouterr().err
        logs = re.compile(r"INFO: |W\d{4} ")  # Lightning's, and torch's at its first import of something
        lines = [line for line in written.splitlines() if line and not logs.match(line)]
        assert "Traceback" not in written
        assert len(lines) == 1 and lines[0].startswith("lightning-lottery: error: "), written
        return lines[0].removeprefix("lightning-lottery: error: ")

    return run
