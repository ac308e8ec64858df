import subprocess

import pytest

from lightning_lottery.command.completion import script
from lightning_lottery.command.main import main
from lightning_lottery.command.subcommands import SUBCOMMANDS

COMPLETE = """
source completion.sh
COMP_WORDS=(lightning-lottery {words}); COMP_CWORD={number}
_lightning_lottery
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ex", "explain"),
        ("fit --trainer.max_e", "--trainer.max_epochs"),
        ("imp --imp.lev", "--imp.levels"),
        ("sweep --help", "--help --help_all"),
        ("path --help", "--help"),
        ("path --save", "--save_midpoint"),
        ("fit fi", ""),  # the shell then offers files
    ],
)
def test_bash_completes_subcommands_and_options(words, offered, here):
    (here / "completion.sh").write_text(script())
    source = COMPLETE.format(words=words, number=len(words.split()))
    process = subprocess.run(["bash", "-c", source], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == offered


def test_the_script_is_what_the_command_prints(capsys):
    main(["completion"])
    printed = capsys.readouterr().out
    assert printed == script() and all(f" {name}) words=" in printed for name in SUBCOMMANDS)
