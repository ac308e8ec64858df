import ast
import subprocess
import sys
from pathlib import Path

from lightning_lottery import zoo

# torchmetrics, and so Lightning, imports the first two itself: only a blocked import shows who else wants them
SCRIPT = """
import sys, lightning.pytorch
for name in ("transformers", "torchvision", "sklearn"):
    sys.modules[name] = None
import lightning_lottery.zoo
"""


def test_importing_the_zoo_does_not_import_its_heavy_libraries():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_index_lists_exactly_what_it_imports():
    tree = ast.parse(Path(zoo.__file__).read_text(encoding="utf-8"))
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(zoo.__all__) == sorted(imported)
