"""Training and validation as steps, each the same whatever came before it in this process."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from corpus import Corpus, windows_of_step, windows_of_test
from gang import Gang
from model import LanguageModel, flop_per_token
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

#: Of the learning rate: its rise over so much of the steps, and where its fall ends.
WARMUP, FLOOR = 0.05, 0.1


class Training:
    """All that one step hands to the next one.

    Attributes
    ----------
    losses : torch.Tensor of float64, shape (steps,)
        Bits per byte of each step's windows.
    judged : torch.Tensor of float64, shape (2,)
        Windows of the test that are done, and their bits.
    clock : torch.Tensor of float64, shape (1,)
        Seconds spent in steps of training that count.
    """

    def __init__(self, options: argparse.Namespace, corpus: Corpus, gang: Gang) -> None:
        torch.manual_seed(options.seed)
        model = LanguageModel(options.width, options.layers, options.heads)
        self.flop_per_token = flop_per_token(model, options.width, options.layers, options.context)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.options, self.text, self.gang = options, corpus.train, gang
        self.test = windows_of_test(corpus.held_out, options.context, 1024 * options.validation_kib)
        self.model = _spread(model.to(gang.device), options.parallel, gang)
        matrices = [parameter for parameter in self.model.parameters() if parameter.ndim == 2]
        vectors = [parameter for parameter in self.model.parameters() if parameter.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.learning_rate, betas=(0.9, 0.95),
        )  # fmt: skip
        self.step = 0
        self.losses = torch.zeros(options.steps, dtype=torch.float64)
        self.judged = torch.zeros(2, dtype=torch.float64)
        self.clock = torch.zeros(1, dtype=torch.float64)
        # DDP lays its buckets out anew after the first pass of a process, and with more than two ranks sums differ by that:
        # this pass is the first one of each attempt.
        self.loss(torch.zeros(1, options.context + 1, dtype=torch.int64, device=gang.device)).backward()
        self.optimizer.zero_grad()
        self._make_optimizer_state()

    def _make_optimizer_state(self) -> None:
        """PyTorch makes it with the first step, or when it is asked for before that: by a step of no length, which it then counts as one."""
        get_state_dict(self.model, self.optimizer)
        for state in self.optimizer.state.values():
            state["step"].zero_()

    @property
    def num_chunks(self) -> int:
        """Steps of the test."""
        return -(-len(self.test) // self.options.batch)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. There is no generator in it: each step's windows come of the seed and its number."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        step = torch.tensor([self.step])
        return {"model": model, "optimizer": optimizer, "losses": self.losses, "judged": self.judged, "clock": self.clock, "step": step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, filled by a checkpoint."""
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.step = int(state["step"])

    def rate(self, step: int) -> float:
        """The learning rate: a straight rise, then half a cosine."""
        warmup = max(1, round(WARMUP * self.options.steps))
        if step < warmup:
            return self.options.learning_rate * (step + 1) / warmup
        part = (step - warmup) / max(1, self.options.steps - warmup)
        return self.options.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * part)) / 2)

    def windows(self) -> Tensor:
        """Those of the next step, of all ranks."""
        options = self.options
        return _tensor(windows_of_step(self.text, options.seed, self.step, options.batch, options.context))

    def train(self) -> dict[str, float]:
        """One step of training; gives the fields of its progress."""
        began = time.perf_counter()
        options = self.options
        # Ranks with one window more weigh more: the mean over ranks is the mean over windows, whatever their number.
        loss = self.loss(self.gang.share(self.windows())) * (self.gang.size / (options.batch * options.context))
        loss.backward()
        fields = self.finish_step(self.gang.total(loss.detach() / self.gang.size))
        took_s = time.perf_counter() - began
        self.clock += took_s
        return {**fields, "tokens_per_s": options.batch * options.context / took_s}

    def finish_step(self, nats: float) -> dict[str, float]:
        """Move the weights by the gradients that are there; gives fields of progress.

        Parameters
        ----------
        nats : float
            Mean over the windows of the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.max_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses[self.step] = nats / math.log(2)
        self.step += 1
        return {
            "bits_per_byte": nats / math.log(2),
            "gradient": float(norm.full_tensor() if isinstance(norm, DTensor) else norm),
            "learning_rate": self.rate(self.step - 1),
        }

    @torch.no_grad()
    def judge(self) -> dict[str, Any]:
        """One step of the test, on its next windows; gives the fields of its progress."""
        done = int(self.judged[0])
        windows = _tensor(self.test[done : done + self.options.batch])
        own = self.gang.share(windows)
        # A rank without a window has to take part too: parameters are gathered from all.
        nats = self.loss(own) if len(own) else 0.0 * self.loss(windows[:1].to(self.gang.device))
        self.judged += torch.tensor([len(windows), self.gang.total(nats.double()) / math.log(2)], dtype=torch.float64)
        return {"judged_windows": int(self.judged[0]), "held_out_bits_per_byte": self.bits_per_byte()}

    def bits_per_byte(self) -> float:
        """Of the windows of the test that are done."""
        return float(self.judged[1] / (self.judged[0] * self.options.context))

    def weights(self) -> dict[str, Any]:
        """The whole model on rank 0, nothing on others; all ranks have to ask."""
        return get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def loss(self, windows: Tensor) -> Tensor:
        """Nats to foretell the windows' bytes, summed."""
        with self._precision():
            scores = self.model(windows[:, :-1])
        return functional.cross_entropy(scores.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")

    def _precision(self) -> AbstractContextManager[Any]:
        is_low = self.options.precision == "bfloat16"
        return torch.autocast(self.gang.device.type, dtype=torch.bfloat16, enabled=is_low)


def _tensor(windows: np.ndarray) -> Tensor:
    return torch.from_numpy(windows.astype(np.int64))


def _spread(model: LanguageModel, parallel: str, gang: Gang) -> nn.Module:
    if parallel == "fsdp2":
        for block in model.blocks:
            fully_shard(block)
        return fully_shard(model)
    return DistributedDataParallel(model) if gang.size > 1 else model
