"""Programs that read recorded data say so where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dure.client.blueprints import catalogue_folder


@pytest.mark.parametrize(
    ("name", "program", "libraries"),
    [
        ("predictive-maintenance", "train.py", ["sklearn", "matplotlib", "torch"]),
        ("process-monitoring", "monitor.py", ["torch", "joblib", "matplotlib"]),
    ],
)
def test_absent_data_end_with_2(tmp_path: Path, name: str, program: str, libraries: list[str]) -> None:
    for library in libraries:
        pytest.importorskip(library)
    folders = {"DURE_DATA": tmp_path, "DURE_CHECKPOINT_DIR": tmp_path / "c", "DURE_OUTPUT_DIR": tmp_path / "o"}
    env = {**os.environ, **{key: str(folder) for key, folder in folders.items()}}
    done = subprocess.run(
        [sys.executable, program], cwd=catalogue_folder() / name, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "DURE_DATA" in done.stderr
    assert len(done.stderr.splitlines()) == 1
