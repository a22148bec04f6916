"""What `dure agent --executor ray` says where it cannot start."""

import os
import subprocess
import sys

import pytest
from tests.engines.ray_cluster import is_installed

needs_ray = pytest.mark.skipif(not is_installed(), reason="Ray is not installed (pip install 'dure[ray]')")


def folders(root):
    return "--data-dir", str(root / "data"), "--shared-dir", str(root / "shared")


def agent(*words, before="", **env):
    """Run it, after a line of Python."""
    code = f"import sys; {before}\nfrom dure.cli.main import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, "agent", "--site", "hall", *words], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "DURE_URL": "http://127.0.0.1:1", **env},
    )  # fmt: skip


def test_without_ray_it_says_how_to_install_it(tmp_path):
    run = agent("--executor", "ray", "--address", "127.0.0.1:1", *folders(tmp_path), before="sys.modules['ray'] = None")
    assert run.returncode == 2
    assert run.stderr == "dure: --executor: Ray is not installed: pip install 'dure[ray]', of the cluster's own version\n"


@needs_ray
@pytest.mark.parametrize("address", ["", "ray://head:10001", "head"])
def test_an_address_that_is_none_is_refused(tmp_path, address):
    run = agent("--executor", "ray", *folders(tmp_path), RAY_ADDRESS=address)
    assert run.returncode == 2
    assert f"--address: not HOST:PORT of a Ray cluster that this machine belongs to: {address!r}" in run.stderr


@needs_ray
def test_nobody_at_the_address_is_said(tmp_path):
    run = agent("--executor", "ray", *folders(tmp_path), "--address", "127.0.0.1:1")
    assert run.returncode == 2
    assert "Ray at 127.0.0.1:1: " in run.stderr
    assert "Connect call failed" in run.stderr


def test_an_address_in_the_environment_is_for_others_too(tmp_path):
    """RAY_ADDRESS may be set for Ray itself; what is typed must mean something."""
    run = agent("--node-label", "rack", "--data-dir", str(tmp_path), RAY_ADDRESS="127.0.0.1:1")
    assert "--node-label: it means nothing with --executor local" in run.stderr
    run = agent("--address", "127.0.0.1:1", "--data-dir", str(tmp_path))
    assert "--address: it means nothing with --executor local" in run.stderr
