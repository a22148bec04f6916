"""Replay an SWF file in AccaSim (MIT) and print what it took; runs in an environment of its own, without Dure.

    accasim_replay.py LOG.swf FIFO|EBF GPUS
"""

from __future__ import annotations

import collections
import collections.abc
import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

# AccaSim 1.1.3 is of 2021: since Python 3.10 this name stands in collections.abc alone.
collections.Mapping = collections.abc.Mapping

from accasim.base.allocator_class import BestFit  # noqa: E402
from accasim.base.scheduler_class import EASYBackfilling, FirstInFirstOut  # noqa: E402
from accasim.base.simulator_class import Simulator  # noqa: E402
from accasim.utils.reader_class import Tweaker  # noqa: E402

GPUS_PER_NODE = 8
SCHEDULERS = {"FIFO": FirstInFirstOut, "EBF": EASYBackfilling}


class WholeNodes(Tweaker):
    """Jobs of up to eight processors stand on one node, larger ones on whole nodes, as Dure places them."""

    def tweak_function(self, job):
        processors = job["total_processors"]
        job["core"], job["queue"] = processors, job.pop("queue_number")
        job["requested_nodes"] = max(processors // GPUS_PER_NODE, 1)
        job["requested_resources"] = {"core": min(processors, GPUS_PER_NODE)}
        return job


def main(log: str, scheduler: str, gpus: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "system.json"
        config.write_text(
            json.dumps(
                {
                    "groups": {"g": {"core": GPUS_PER_NODE}},
                    "resources": {"g": gpus // GPUS_PER_NODE},
                    "equivalence": {"processor": {"core": 1}},
                }
            )
        )
        simulator = Simulator(
            log, str(config), SCHEDULERS[scheduler](BestFit()), scheduling_output=False, statistics_output=False,
            show_statistics=False, tweak_function=WholeNodes(), RESULTS_FOLDER_PATH=folder, LOG_LEVEL="INFO",
        )  # fmt: skip
        logging.getLogger("accasim").setLevel(logging.CRITICAL)
        cpu = time.process_time()
        simulator.start_simulation()
        cpu = time.process_time() - cpu
    waits = simulator.mapper.wtimes
    print(
        json.dumps(
            {
                "jobs": len(waits),
                "cpu_s": cpu,
                "wait_mean_s": sum(waits) / len(waits),
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
