"""Learns to foretell the next byte of text, on one rank or many; each step of training and then of the test is a step."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
import time
import traceback

from corpus import read_corpus

from dure.client import job
from dure.model.errors import InputError

#: Options that a run may go on with others of.
FREE = {"text", "pattern", "parallel", "device", "peak_tflops", "save_every_s", "timeout_s"}


def options_parser(description: str | None) -> argparse.ArgumentParser:
    """Of a run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=1400, help="steps of training")
    parser.add_argument("--batch", type=int, default=8, help="windows in a step, of all ranks together")
    parser.add_argument("--context", type=int, default=256, help="bytes that a window foretells")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="at its highest")
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of matrices")
    parser.add_argument("--max-gradient", type=float, default=1.0, help="norm that gradients are cut to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--validation-kib", type=int, default=0, help="of held-out text that is judged; 0: all")
    parser.add_argument("--text", default="", help="folder of text; none: the running Python's standard library")
    parser.add_argument("--pattern", default="*.py", help="which files of that folder")
    parser.add_argument("--parallel", choices=("ddp", "fsdp2"), default="ddp", help="whole models, or each rank a part of one")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of products of matrices")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of one GPU at that precision, for MFU; 0: unknown")
    parser.add_argument("--save-every-s", type=float, default=10.0, help="time between checkpoints")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="a rank silent for so long is given up")
    return parser


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line; 2 is the exit code of a bad one."""
    options = parser.parse_args()
    for name in ("steps", "batch", "context", "width", "layers", "heads", "learning_rate", "max_gradient", "timeout_s"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    for name in ("weight_decay", "validation_kib", "peak_tflops", "save_every_s"):
        if getattr(options, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must be at least 0")
    if options.width % (2 * options.heads):
        parser.error("--width must be a multiple of twice --heads")
    if options.batch < int(os.environ.get("WORLD_SIZE", "1")):
        parser.error("--batch must be at least the number of ranks")
    return options


def digest(options: argparse.Namespace, text: str) -> str:
    """Of the parameters and the text that the results hang on."""
    said = {key: value for key, value in vars(options).items() if key not in FREE} | {"text": text}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def main() -> None:
    """Train, judge, and leave the results; or leave early and go on later."""
    began = time.time()
    options = read_options(options_parser(__doc__))
    corpus = read_corpus(options.text, options.pattern, options.context)
    # Not above: bad arguments are told at once, and an attempt's time counts from before this.
    import torch
    import torch.distributed as dist
    from checkpoints import Checkpoints
    from gang import join_gang
    from goodput import Attempts
    from result import write_results
    from training import Training

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is none here", field="--device cuda")
    folder = job.checkpoint_dir("state/checkpoint")
    gang = join_gang(options.device, options.timeout_s)
    checkpoints = Checkpoints(folder, gang, digest(options, corpus.digest))
    newest = checkpoints.find()
    attempts = Attempts(folder, began) if gang.rank == 0 else None
    training = Training(options, corpus, gang)
    if newest:
        state = training.state()
        checkpoints.load(newest, state)
        training.restore(state)
    # What is there now stays: else the end of the process looks through it all once more, for 2 s of its grace.
    gc.freeze()
    saved = time.monotonic()
    while training.step < options.steps or training.judged[0] < len(training.test):
        if training.step < options.steps:
            fields, step = training.train(), training.step
        else:
            fields = training.judge()
            step = options.steps - (-int(training.judged[0]) // options.batch)
        if attempts:
            attempts.note_alive()
            job.report_progress(step=step, **fields)
        is_due = not checkpoints.is_writing() and time.monotonic() - saved >= options.save_every_s
        must_leave, must_save = gang.agree(job.should_stop(), is_due and gang.rank == 0)
        if must_leave:
            checkpoints.save(step, training.state())
            dist.destroy_process_group()
            job.leave()
        if must_save:
            checkpoints.begin(step, training.state())
            saved = time.monotonic()
    checkpoints.finish()
    weights = training.weights()
    if attempts:
        write_results(job.output_dir("state/output"), training, weights, attempts)
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except SystemExit:
        raise
    except BaseException:
        # As a rule another rank is lost: threads may wait for it still, so that an orderly end could take long.
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
