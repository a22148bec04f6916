"""A service, a Slurm and the agent between them."""

from pathlib import Path

from tests.engines.site import Site
from tests.engines.slurm_cluster import SlurmCluster


class SlurmSite(Site):
    """The service's site on a Slurm of its two nodes; `more` are lines for slurm.conf."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.cluster = SlurmCluster(2, 8, "hall-", more)
        super().__init__(folder, ["--executor", "slurm", "--partition", "gpu"], self.cluster.env)

    def close(self) -> None:
        """The agent, the service, then Slurm."""
        super().close()
        self.cluster.close()
