"""A real Ray for tests: a head and nodes on this machine, each its own raylet, with GPUs that stand in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.service.processes import free_port

_MIB = 1 << 20

#: Somebody else's job: an actor on a node, until its input ends.
_FOREIGN = """\
import json, sys
import ray
address, node, wanted = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ray.init(address, namespace="others", log_to_driver=False, logging_level="ERROR")
(node_id,) = [found["NodeID"] for found in ray.nodes() if found["NodeName"] == node and found["Alive"]]
@ray.remote
class Other:
    def up(self):
        return True
other = Other.options(label_selector={"ray.io/node-id": node_id}, **wanted).remote()
ray.get(other.up.remote())
print("up", flush=True)
sys.stdin.read()
"""

#: Takes away whatever a test has left running, once for each line.
_JANITOR = """\
import sys, time
import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import get_placement_group
ray.init(sys.argv[1], namespace="dure", log_to_driver=False, logging_level="ERROR")
for _ in sys.stdin:
    while groups := [group for group in placement_group_table().values() if group["state"] != "REMOVED"]:
        for group in groups:
            remove_placement_group(get_placement_group(group["name"]))
        time.sleep(0.05)
    while True:
        free = ray._private.state.available_resources_per_node()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if all(free.get(node["NodeID"], {}).get(name) == node["Resources"].get(name) for node in nodes for name in ("GPU", "CPU")):
            break
        time.sleep(0.05)
    print("done", flush=True)
"""


def is_installed() -> bool:
    """Whether Ray is here."""
    return importlib.util.find_spec("ray") is not None


class RayCluster:
    """A head that runs no jobs, and nodes n0, n1… (or with another prefix) of 64 CPUs and some GPUs each.

    The head keeps what it knows on disk, so that it can crash and come back.
    """

    def __init__(self, num_nodes: int = 2, gpus: int = 4, prefix: str = "n") -> None:
        from ray.cluster_utils import Cluster

        self.folder = Path(tempfile.mkdtemp(prefix="dure-ray-"))
        self.names = [f"{prefix}{idx}" for idx in range(num_nodes)]
        self._gpus = gpus
        self._nodes: dict[str, Any] = {}
        head = {
            "num_cpus": 0, "num_gpus": 0, "node_name": "head", "include_dashboard": False, "object_store_memory": 80 * _MIB,
            "gcs_server_port": free_port(),
        }  # fmt: skip
        with self._storage("first"):
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for name in self.names:
            self.start_node(name)
        self._janitor = self._start_janitor()

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", _JANITOR, self.address]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    @contextlib.contextmanager
    def _storage(self, name: str) -> Iterator[None]:
        wanted = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / name)}
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return str(self._cluster.address)

    def start_node(self, name: str) -> None:
        """A raylet with that name."""
        self._nodes[name] = self._cluster.add_node(
            node_name=name, num_cpus=64, num_gpus=self._gpus, memory=64 * 1024 * _MIB, object_store_memory=80 * _MIB,
            labels={"hall": f"rack-{name}"},
        )  # fmt: skip

    def kill_node(self, name: str) -> None:
        """As a crash would: its raylet by SIGKILL, its workers as they see that it is gone."""
        self._nodes.pop(name).kill_raylet(check_alive=False)

    def kill_head(self) -> None:
        """As a crash would."""
        self._cluster.head_node.kill_gcs_server(check_alive=False)

    def start_head(self, *, is_fresh: bool = False) -> None:
        """Start it at the same address; fresh: it has forgotten all."""
        with self._storage("fresh" if is_fresh else "first"):
            self._cluster.head_node.start_gcs_server()

    @contextlib.contextmanager
    def foreign(self, node: str, **wanted: float) -> Iterator[None]:
        """Somebody else's job, on a node."""
        words = [sys.executable, "-c", _FOREIGN, self.address, node, json.dumps(wanted)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            yield
            process.kill()

    def clear(self) -> None:
        """End all that runs, and bring all nodes back."""
        for name in self.names:
            if name not in self._nodes:
                self.start_node(name)
        if not self._has_cleared():
            # It was of a node that has been killed.
            self._janitor.kill()
            self._janitor.communicate()
            self._janitor = self._start_janitor()
            assert self._has_cleared()

    def _has_cleared(self) -> bool:
        assert self._janitor.stdin is not None
        assert self._janitor.stdout is not None
        try:
            self._janitor.stdin.write(b"\n")
            self._janitor.stdin.flush()
        except BrokenPipeError:
            return False
        return self._janitor.stdout.readline() == b"done\n"

    @staticmethod
    def until(is_so: object, wait_s: float) -> None:
        """Wait for something to become so."""
        end = time.monotonic() + wait_s
        while not is_so():  # type: ignore[operator]
            assert time.monotonic() < end, "Ray did not get there in time"
            time.sleep(0.05)

    def close(self) -> None:
        """End all its processes, each by its number."""
        self._janitor.kill()
        self._janitor.communicate()
        processes = [
            info.process for node in [*self._nodes.values(), self._cluster.head_node]
            for infos in node.all_processes.values() for info in infos
        ]  # fmt: skip
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        for folder in (self.folder, self._cluster.head_node.get_session_dir_path()):
            shutil.rmtree(folder, ignore_errors=True)
