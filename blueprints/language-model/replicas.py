"""Trains the same model as one of several replicas that come and go: without those that are lost, and with those that come (torchft).

Each replica is a job of its own. All hold the whole model; a step's windows are parted among those that are there, so its batch stays whole
whoever is. A step in which one is lost is done again by the others; one that comes takes the state from them at the next step. Replicas find
each other through a lighthouse, which is a small job without GPUs: `--lighthouse serve`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from datetime import timedelta
from typing import Any

from corpus import Corpus, read_corpus
from train import digest, options_parser, read_options

from dure.client import job
from dure.model.errors import InputError
from dure.whole_file import whole_file

#: A replica that has been silent for so long is done without; so long is waited for those that are due at a step.
SILENT_MS, JOIN_MS = 3_000, 2_000
PORT = 29510
SERVE = "serve"


# torchft says several lines a step otherwise.
os.environ.setdefault("RUST_LOG", "warn")


def main() -> None:
    """Serve as the lighthouse, or train, judge and leave the results."""
    parser = options_parser(__doc__)
    parser.add_argument(
        "--lighthouse", default=os.environ.get("TORCHFT_LIGHTHOUSE", ""), help=f"its address (http://HOST:{PORT}), or '{SERVE}': to be it"
    )
    parser.add_argument("--port", type=int, default=PORT, help="that the lighthouse listens on")
    options = read_options(parser)
    if not options.lighthouse:
        parser.error("--lighthouse, or TORCHFT_LIGHTHOUSE, has to be given")
    if options.parallel != "ddp" or options.device != "cpu":
        parser.error("replicas are whole models on CPUs here (--parallel ddp, --device cpu)")
    if options.lighthouse == SERVE:
        serve(options.port)
    else:
        train(options, read_corpus(options.text, options.pattern, options.context))


def serve(port: int) -> None:
    """Be the lighthouse until told to leave."""
    from torchft.coordination import LighthouseServer

    job.watch_signals()
    server = LighthouseServer(bind=f"0.0.0.0:{port}", min_replicas=1, join_timeout_ms=JOIN_MS, heartbeat_timeout_ms=SILENT_MS)
    print(f"lighthouse at http://{socket.gethostname()}:{port}", flush=True)
    while not job.should_stop():
        time.sleep(0.2)
    server.shutdown()
    job.leave()


def train(options: Any, corpus: Corpus) -> None:
    """Be a replica: a step is done when all that are there have done their part of it."""
    # Not above: bad arguments are told at once.
    import torch
    import torch.distributed as dist
    from gang import join_gang
    from torch.distributed import ReduceOp
    from torchft import Manager, ProcessGroupGloo
    from training import Training

    class Replica(Training):
        """A step's windows are those of all replicas that are there."""

        def one_step(self) -> dict[str, float] | None:
            """Train on this replica's part of the next step; None: one was lost on the way, and the step has to be done again."""
            manager.start_quorum()
            # Whoever has just come has the others' state, and their step, from here on.
            num, place = manager.num_participants(), manager.participating_rank()
            own = self.windows()[place::num]
            loss = self.loss(own) if len(own) else 0.0 * self.loss(self.windows()[:1])
            (loss / (options.batch * options.context)).backward()
            parameters = list(self.model.parameters())
            parts = [parameter.grad.flatten() for parameter in parameters] + [loss.detach().reshape(1) / (options.batch * options.context)]
            flat = torch.cat(parts)
            manager.allreduce(flat, reduce_op=ReduceOp.SUM).wait()
            if not manager.should_commit():
                self.optimizer.zero_grad()
                return None
            for parameter, part in zip(parameters, flat[:-1].split([parameter.numel() for parameter in parameters]), strict=True):
                parameter.grad.copy_(part.view_as(parameter))
            return {**self.finish_step(float(flat[-1])), "replicas": num}

    gang = join_gang(options.device, options.timeout_s)
    replica = Replica(options, corpus, gang)
    kept = job.checkpoint_dir("state/checkpoint") / "replica.pt"
    run = digest(options, corpus.digest)
    # Each replica has a store of its own; one process makes one up here.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=SILENT_MS / 1000 * 2)), min_replica_size=1, use_async_quorum=False, rank=0, world_size=1,
        load_state_dict=replica.restore, state_dict=replica.state, store_addr="localhost", store_port=store.port,
        replica_id=f"{run[:8]}-{os.environ.get('DURE_JOB_ID', os.getpid())}-", lighthouse_addr=options.lighthouse, hostname="localhost"
        if "//localhost" in options.lighthouse or "//127." in options.lighthouse else socket.gethostname(),
        timeout=timedelta(seconds=options.timeout_s), quorum_timeout=timedelta(seconds=options.timeout_s),
    )  # fmt: skip
    if kept.is_file():
        # If nobody else is there, it goes on from what it had when it left.
        state = torch.load(kept, weights_only=True)
        if state["run"] != run:
            raise InputError("holds the state of other parameters or text; remove it or use another folder", path=str(kept))
        replica.restore(state["replica"])
        manager.load_state_dict(state["manager"])
    done_again = 0
    try:
        while replica.step < options.steps:
            fields = replica.one_step()
            if fields is None:
                done_again += 1
                continue
            job.report_progress(step=replica.step, **fields)
            if job.should_stop():
                with whole_file(kept) as draft:
                    torch.save({"run": run, "replica": replica.state(), "manager": manager.state_dict()}, draft)
                job.leave()
    finally:
        manager.shutdown(wait=False)
    while replica.judged[0] < len(replica.test):
        replica.judge()
        if job.should_stop():
            with whole_file(kept) as draft:
                torch.save({"run": run, "replica": replica.state(), "manager": manager.state_dict()}, draft)
            job.leave()
    weights = torch.cat([parameter.detach().flatten() for parameter in replica.model.parameters()])
    job.report_metrics(
        bits_per_byte=replica.bits_per_byte(), steps_done_again=done_again, weights=hashlib.sha256(weights.numpy().tobytes()).hexdigest()
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    job.run_program(main)
