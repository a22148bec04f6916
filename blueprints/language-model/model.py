"""A decoder-only transformer over bytes: RMSNorm before each part, rotary positions, SwiGLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: A token is a byte.
NUM_TOKENS = 256


class Attention(nn.Module):
    """Causal self-attention; queries and keys are normed, which lets small models learn fast (arXiv 2302.05442)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.norm_query = nn.RMSNorm(width // heads)
        self.norm_key = nn.RMSNorm(width // heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Take and give (batch, context, width)."""
        batch, context, width = x.shape
        query, key, value = self.mix(x).view(batch, context, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key = rotate(self.norm_query(query), turn), rotate(self.norm_key(key), turn)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(seen.transpose(1, 2).reshape(batch, context, width))


class Block(nn.Module):
    """Attention, then a gated feed-forward part (SwiGLU, arXiv 2002.05202)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = 32 * math.ceil(width * 8 / 3 / 32)
        self.norm_attention = nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.RMSNorm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Take and give (batch, context, width)."""
        x = x + self.attention(self.norm_attention(x), turn)
        y = self.norm_feed(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class LanguageModel(nn.Module):
    """Bytes in, the scores of each next byte out.

    Parameters
    ----------
    heads : int
        Divides `width`, into heads of even size.
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_TOKENS, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, NUM_TOKENS, bias=False)
        self.head_size = width // heads
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # What is added up over the layers starts smaller, so that the sum does not grow with depth (GPT-2).
                is_added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if is_added else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Take int64 (batch, context), give (batch, context, 256)."""
        turn = turns(tokens.shape[1], self.head_size, tokens.device)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, turn)
        return self.head(self.norm(x))


def turns(context: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine by position and by pair of a head's numbers (RoPE, arXiv 2104.09864, base 10,000)."""
    rates = 10_000.0 ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(context, device=device, dtype=torch.float32), rates)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of (…, context, size) by its position's angle; what two positions say to each other hangs on their distance."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def flop_per_token(model: LanguageModel, width: int, layers: int, context: int) -> int:
    """Operations of training on one token: 6 for each weight that multiplies, 12·layers·width·context for attention.

    PaLM (arXiv 2204.02311), appendix B; a causal mask's saving is not counted there either.
    """
    num_weights = sum(parameter.numel() for parameter in model.parameters()) - model.embedding.weight.numel()
    return 6 * num_weights + 12 * layers * width * context
