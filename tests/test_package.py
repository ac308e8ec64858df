import json
import subprocess
import sys

import lightning_lottery

THIRD_PARTY = """
import json, sys
ours = {"__main__", "lightning_lottery", *sys.stdlib_module_names}
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} - ours)))
"""


def third_party_after(statement: str) -> set[str]:
    script = f"{statement}\n{THIRD_PARTY}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_that_lightning_does_not():
    before = third_party_after("import lightning")
    assert {"lightning", "torch"} <= before
    assert third_party_after("import lightning; import lightning_lottery") - before == set()


def test_every_public_name_exists_and_is_listed_once():
    names = lightning_lottery.__all__
    assert names
    assert [name for name in names if not hasattr(lightning_lottery, name)] == []
    assert len(names) == len(set(names))


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "lightning_lottery", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "usage: " in run.stdout.lower()
