"""The ledger is a library: its folder alone, without the project around it, does what its page says."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LEDGER = REPOSITORY / "stages/ledger"
GIVEN = """
from pathlib import Path

def compute(outputs):
    outputs.path("data/small.bin").write_text("trained")

"""
ASKED = """
import sys
assert list(ledger.assess().current) == jobs
assert not {"torch", "numpy", "pandas", "snakemake", "dvc"} & set(sys.modules)
"""


def test_it_imports_nothing_of_the_project_and_nothing_of_neural_networks():
    files = sorted(LEDGER.glob("*.py"))
    assert len(files) > 10
    for file in files:
        nodes = [
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
        assert [name for name in names if re.match(r"stages(?!\.ledger\b)|torch|numpy|pandas", name)] == [], file


def test_the_example_of_its_page_runs_in_a_folder_of_its_own(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/ledger.md").read_text(), re.DOTALL)
    shutil.copytree(LEDGER, tmp_path / "stages/ledger", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dvc", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/images.npy").write_text("images")
    (tmp_path / "stages/train.py").write_text("RATE = 1\n")
    (tmp_path / "example.py").write_text(GIVEN + example + ASKED)
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "train--small" in (tmp_path / "dvc.lock").read_text()
