"""A character-level GPT that learns to write like Python's standard library, in a minute on a CPU core.

Three things that a project of yours would also have: a model, a data set and a hook, each named in
``config.yaml`` by file and class.

Shape suffixes: B batch, T time (characters), C channels (``width``), V vocabulary.
"""

from __future__ import annotations

import hashlib
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hookline import ConfigError, HookBase, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookline.trainer import TrainerBase

__all__ = ["GPT", "VOCABULARY", "Corpus", "Samples", "decode", "encode"]

log = logging.getLogger("hookline.examples.char_gpt")

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
VOCABULARY = "\t\n" + "".join(map(chr, range(32, 127))) + UNKNOWN
"""Tab, newline, printable ASCII, one for all others; fixed, so a model needs no data to be built."""

# Row number = code point, 127 and everything beyond = unknown.
_IDS = np.full(128, VOCABULARY.index(UNKNOWN), dtype=np.uint8)
_IDS[[ord(character) for character in VOCABULARY[:-1]]] = np.arange(len(VOCABULARY) - 1)


def encode(text: str) -> Tensor:
    """Return the token id of every character of ``text``, shape (T,), uint8."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")
    return torch.from_numpy(_IDS[np.minimum(codes, 127)])


def decode(tokens_T: Tensor) -> str:
    """Return the text of token ids; the inverse of `encode` but for unknown characters."""
    return "".join(VOCABULARY[token] for token in tokens_T.tolist())


class Block(nn.Module):
    """A pre-norm transformer block: causal self-attention, then two layers, each added to its input."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC)))
        return x_BTC + self.dropout(
            self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BTC)), approximate="tanh"))
        )

    def attention(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        # (B, T, 3, heads, C / heads) -> 3 x (B, heads, T, C / heads)
        q, k, v = self.qkv(x_BTC).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout.p if self.training else 0.0
        )
        return self.attention_out(mixed.transpose(1, 2).reshape(B, T, C))


class GPT(nn.Module):
    """A decoder-only transformer over characters; positions are learned, embedding and output weights tied.

    Args:
        num_layers: Number of transformer blocks.
        width: Channels of the residual stream; a multiple of ``num_heads``.
        context: Longest text it looks back on, characters.
        num_heads: Attention heads a block.
        dropout: Probability of zeroing an activation in training.
    """

    def __init__(
        self,
        num_layers: Annotated[int, Field(ge=1)] = 2,
        width: Annotated[int, Field(ge=1)] = 64,
        context: Annotated[int, Field(ge=1)] = 64,
        num_heads: Annotated[int, Field(ge=1)] = 4,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(
                [Problem("GPT.width", f"a multiple of num_heads ({num_heads})", width, "", "Change either")]
            )
        self.context = context
        self.token_embedding = nn.Embedding(len(VOCABULARY), width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self._initialize()

    def _initialize(self) -> None:
        """Draw weights as GPT-2 does (Radford et al. 2019, section 2.3): smaller where a block adds."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                adds = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if adds else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return scores of the character after each one given, shape (B, T, V); T is at most ``context``."""
        positions_T = self.position_embedding.weight[: tokens_BT.shape[1]]
        x_BTC = self.dropout(self.token_embedding(tokens_BT) + positions_T)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return F.linear(self.norm(x_BTC), self.token_embedding.weight)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss, nats per character: 0-D, about ln(98) = 4.6 before training.

        Args:
            batch: ``tokens`` and ``targets``, each (B, T) int64; targets are the tokens one place later.
        """
        return F.cross_entropy(self.logits(batch["tokens"]).flatten(0, 1), batch["targets"].flatten())

    @torch.no_grad()
    def generate(self, prompt: str, num_chars: int, *, temperature: float = 0.8, seed: int = 0) -> str:
        """Return ``prompt`` and ``num_chars`` characters drawn after it; leaves global random state alone.

        Args:
            prompt: What to go on from; at least one character.
            num_chars: How many characters to draw; each costs one forward pass.
            temperature: Below 1 the model keeps to what it is sure of, above 1 it wanders; must be > 0.
            seed: Seed of the draw.
        """
        was_training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        tokens_T = encode(prompt).long()
        for _ in range(num_chars):
            window = tokens_T[-self.context :].to(self.token_embedding.weight.device)
            scores_V = self.logits(window[None])[0, -1].float().cpu() / temperature
            drawn = torch.multinomial(scores_V.softmax(-1), 1, generator=generator)
            tokens_T = torch.cat([tokens_T, drawn])
        self.train(was_training)
        return decode(tokens_T)


class Corpus:
    """The running Python's top-level standard library modules, as windows of characters; no download.

    Nine files of ten, by sorted name, are for training, the tenth for evaluation. Files that cannot be
    read are left out. The number of files and characters and a checksum are logged, since they differ
    from one Python version to the next.

    Args:
        split: Which files: ``train`` or ``eval``.
        context: Characters a window; a sample is one more, for the last target.
        max_windows: Keep this many windows, evenly spaced; 0 keeps all, each character once.
    """

    def __init__(
        self,
        split: Literal["train", "eval"] = "train",
        context: Annotated[int, Field(ge=1)] = 64,
        max_windows: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        texts = _standard_library()
        chosen = [text for number, text in enumerate(texts) if (number % 10 == 9) == (split == "eval")]
        text = "\n".join(chosen)
        tokens = encode(text)
        num_windows = max((len(tokens) - 1) // context, 0)
        if num_windows == 0:
            where = f"Corpus({split})"
            raise ConfigError(
                [Problem(where, f"more than {context} characters of Python source", len(tokens))]
            )
        stride = context * max(num_windows // max_windows, 1) if max_windows else context
        windows = tokens.unfold(0, context + 1, stride)  # a view: (windows, context + 1)
        self.windows = windows[:max_windows] if max_windows else windows
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
        log.info(
            "corpus %s: %d files, %s characters, sha256 %s", split, len(chosen), f"{len(text):,}", digest
        )

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.windows[index].long()
        return {"tokens": window[:-1], "targets": window[1:]}

    def get_batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the samples at ``indices`` as one batch: one indexing operation, no collation."""
        windows = self.windows[indices].long()
        return {"tokens": windows[:, :-1], "targets": windows[:, 1:]}


@lru_cache(maxsize=1)
def _standard_library() -> list[str]:
    """Return the text of every readable top-level module of the standard library, by sorted file name."""
    texts = []
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        try:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
        except OSError as error:
            log.warning("corpus: left out %s: %s", path, error)
    return texts


class Samples(HookBase):
    """Puts a text written by the model into the storage, and into the log, at each evaluation.

    Args:
        prompt: What the model goes on from.
        num_chars: How many characters it writes.
        temperature: Below 1 it keeps to what it is sure of, above 1 it wanders.
    """

    observer = True  # generate() draws from a generator of its own

    def __init__(
        self,
        prompt: Annotated[str, Field(min_length=1)] = "def ",
        num_chars: Annotated[int, Field(ge=1)] = 200,
        temperature: Annotated[float, Field(gt=0)] = 0.8,
    ) -> None:
        self.prompt, self.num_chars, self.temperature = prompt, num_chars, temperature

    def after_evaluate(self, trainer: TrainerBase, name: str, metrics: Mapping[str, float]) -> None:
        model: Any = getattr(trainer.model, "module", trainer.model)  # inside DistributedDataParallel
        text = model.generate(self.prompt, self.num_chars, temperature=self.temperature)
        trainer.storage.put_text("sample", text)
        log.info("sample at iteration %d:\n%s", trainer.iter, text)
