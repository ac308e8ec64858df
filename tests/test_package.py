import json
import subprocess
import sys

import lightning_lottery

IMPORTS = """
import json, sys
ours = {"__main__", "lightning_lottery", *sys.stdlib_module_names}
def third_party():
    return {name.partition(".")[0] for name in sys.modules} - ours
import lightning
before = third_party()
import lightning_lottery
print(json.dumps([sorted(before), sorted(third_party() - before)]))
"""


def test_importing_the_package_loads_nothing_that_lightning_does_not():
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    before, added = json.loads(run.stdout.splitlines()[-1])
    assert {"lightning", "torch"} <= set(before)
    assert added == []


def test_every_public_name_exists_and_is_listed_once():
    names = lightning_lottery.__all__
    assert names
    assert [name for name in names if not hasattr(lightning_lottery, name)] == []
    assert len(names) == len(set(names))


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "lightning_lottery", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout.lower()
