"""A text tower from scratch: a vocabulary learned from the training captions, and a transformer or GRU over it.

B texts, L tokens, d dimensions.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.sequence import Positions, masked_mean, unit

PAD, UNKNOWN = "[PAD]", "[UNK]"


def train_vocabulary(captions: Iterable[str], size: int = 4000) -> str:
    """Learn byte pairs on captions and return the tokenizer as JSON text.

    Texts are lower-cased and split at blanks and punctuation. The result is a pure function of the set of captions.

    Args:
        captions: Training captions.
        size: Greatest number of tokens, the padding and the unknown one included.

    Raises:
        InputError: No captions, or a size below 3.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    distinct = sorted(set(captions))
    if not distinct or size < 3:
        raise InputError(
            f"a vocabulary of {size} tokens from {len(distinct)} captions: expected 3 tokens or more, and captions."
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, UNKNOWN], initial_alphabet=_alphabet(distinct), show_progress=False
    )
    tokenizer.train_from_iterator(distinct, trainer)
    return str(tokenizer.to_str())


def _alphabet(captions: Sequence[str]) -> list[str]:
    return sorted({c for text in captions for c in unicodedata.normalize("NFKC", text).lower() if not c.isspace()})


class Vocabulary:
    """Texts to token numbers.

    Args:
        text: A tokenizer as JSON, of :func:`train_vocabulary` or any of the package tokenizers with a token "[PAD]".
        max_words: Tokens beyond this many are cut off.

    Raises:
        InputError: The text is no tokenizer, or has no "[PAD]".
    """

    def __init__(self, text: str, max_words: int = 32) -> None:
        from tokenizers import Tokenizer

        try:
            tokenizer: Any = Tokenizer.from_str(text)
        except Exception as error:  # the package raises plain Exception
            raise InputError(f"the vocabulary is no tokenizer ({str(error)[:200]}).") from error
        pad = tokenizer.token_to_id(PAD)
        if pad is None:
            raise InputError(f"the vocabulary has no token {PAD}, with which shorter texts are filled.")
        if max_words < 1:
            raise InputError(f"max_words={max_words}: expected 1 or more.")
        tokenizer.enable_truncation(max_words)
        tokenizer.enable_padding(pad_id=pad, pad_token=PAD)
        self.text, self.max_words, self._tokenizer = text, max_words, tokenizer

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return (B, L) int64 token numbers and their (B, L) bool mask.

        Raises:
            InputError: A text without a single token; its position is named.
        """
        found = self._tokenizer.encode_batch([str(text) for text in texts])
        tokens = torch.tensor([row.ids for row in found], dtype=torch.int64)
        mask = torch.tensor([row.attention_mask for row in found], dtype=torch.bool)
        empty = next((i for i, row in enumerate(found) if not any(row.attention_mask)), None)
        if empty is not None:
            raise InputError(f"text {empty} is {texts[empty]!r}, which holds no word.")
        return tokens, mask


@dataclass(frozen=True)
class TextSettings:
    """The text tower.

    Attributes:
        kind: What goes over the tokens.
        width: Dimensions of tokens and layers.
        layers: Blocks of the transformer, or layers of the GRU (of both directions).
        heads: Of the transformer; divides the width.
        vocabulary: Greatest number of tokens learned from the training captions.
        max_words: Tokens of a text; the rest is cut off.
        dropout: Of the blocks.
    """

    kind: Literal["transformer", "gru"] = "transformer"
    width: int = 128
    layers: int = 2
    heads: int = 4
    vocabulary: int = 4000
    max_words: int = 32
    dropout: float = 0.1


class TextTower(nn.Module):
    """Tokens, layers, the mean over tokens, a projection.

    Args:
        settings: See there.
        vocabulary: The tokenizer as JSON.
        dim: d of the embeddings.

    Attributes:
        vocabulary: Goes into checkpoints with the weights, which mean nothing without it.

    Raises:
        InputError: A setting is out of range.
    """

    def __init__(self, settings: TextSettings, vocabulary: str, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary = Vocabulary(vocabulary, settings.max_words)
        self.tokens = nn.Embedding(len(self.vocabulary), settings.width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.layers: nn.Module
        if settings.kind == "gru":
            if settings.width % 2 or settings.layers < 1:
                raise InputError(f"text: width={settings.width}, layers={settings.layers}: a GRU takes an even width.")
            self.layers = nn.GRU(
                settings.width, settings.width // 2, settings.layers, batch_first=True, bidirectional=True
            )
        else:
            self.layers = Positions(
                settings.width, settings.max_words, settings.layers, settings.heads, dropout=settings.dropout
            )
        self.norm = nn.LayerNorm(settings.width)
        self.project = nn.Linear(settings.width, dim)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Return (B, d) unit embeddings of B texts."""
        tokens, mask = self.vocabulary(texts)
        device = self.tokens.weight.device
        tokens, mask = tokens.to(device), mask.to(device)
        x = self.tokens(tokens)
        if isinstance(self.layers, nn.GRU):
            lengths = mask.sum(1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            x, _ = nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)
        else:
            x = self.layers(x, mask)
        return unit(self.project(masked_mean(self.norm(x), mask)))

    def get_extra_state(self) -> dict[str, str]:
        """Return the vocabulary."""
        return {"vocabulary": self.vocabulary.text}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Take over the vocabulary that the weights belong to."""
        self.vocabulary = Vocabulary(state["vocabulary"], self.settings.max_words)
