"""A real Ray for tests: a head and nodes on this machine, each its own raylet, with GPUs that stand in."""

from __future__ import annotations

import importlib.util
import time

_MIB = 1 << 20


def is_installed() -> bool:
    """Whether Ray is here."""
    return importlib.util.find_spec("ray") is not None


class RayCluster:
    """A head that runs no jobs, and nodes n0, n1… (or with another prefix) of 64 CPUs and some GPUs each."""

    def __init__(self, num_nodes: int = 2, gpus: int = 4, prefix: str = "n") -> None:
        from ray.cluster_utils import Cluster

        self.names = [f"{prefix}{idx}" for idx in range(num_nodes)]
        self._gpus = gpus
        head = {"num_cpus": 0, "num_gpus": 0, "node_name": "head", "include_dashboard": False, "object_store_memory": 80 * _MIB}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: dict[str, object] = {}
        for name in self.names:
            self.start_node(name)

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
        self._nodes.pop(name).kill_raylet(check_alive=False)  # type: ignore[attr-defined]

    def clear(self) -> None:
        """Bring all nodes back."""
        for name in self.names:
            if name not in self._nodes:
                self.start_node(name)

    @staticmethod
    def until(is_so: object, wait_s: float) -> None:
        """Wait for something to become so."""
        end = time.monotonic() + wait_s
        while not is_so():  # type: ignore[operator]
            assert time.monotonic() < end, "Ray did not get there in time"
            time.sleep(0.05)

    def close(self) -> None:
        """End all its processes, each by its number."""
        self._cluster.shutdown()
