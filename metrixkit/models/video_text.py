"""Two towers into one space: texts on one side, videos or their features on the other.

B rows, T frames or feature vectors, d dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.text import TextSettings, TextTower, train_vocabulary
from metrixkit.models.video import FeatureTower, FrameTower, VideoSettings
from metrixkit.seam import Group


@dataclass(frozen=True)
class PairInputs:
    """What the data, not the user, says about a model of pairs.

    Attributes:
        video_dim: D of the features of videos; None for frames.
        text_dim: D of the features of texts; None for words.
        captions: Training captions, from which a tower from scratch learns its vocabulary.
        vocabulary: The tokenizer as JSON instead, of a model that was trained before.
    """

    video_dim: int | None = None
    text_dim: int | None = None
    captions: Sequence[str] = ()
    vocabulary: str | None = None


_TEXT, _VIDEO, _NONE = TextSettings(), VideoSettings(), PairInputs()


class VideoText(nn.Module):
    """Small towers from scratch: words or features of texts, frames or features of videos.

    Args:
        inputs: Given by the programme.
        dim: d of the embeddings, which have length 1.
        modality: Which modality of the data is matched with the texts; of kind "video" or "features".
        text: The text tower; of it features take `width` as their hidden layer.
        video: The video tower.

    Raises:
        InputError: A setting is out of range.
    """

    kind = "video_text"

    def __init__(
        self,
        inputs: PairInputs = _NONE,
        dim: int = 128,
        modality: str = "video",
        text: TextSettings = _TEXT,
        video: VideoSettings = _VIDEO,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise InputError(f"model.dim={dim}: expected 1 or more.")
        self.inputs, self.embedding_dim, self.modality = inputs, dim, modality
        self._settings: dict[str, Any] = {
            "dim": dim,
            "modality": modality,
            "text": asdict(text),
            "video": asdict(video),
        }
        self.text: nn.Module
        if inputs.text_dim is not None:
            plain = VideoSettings(hidden=text.width, temporal="mean")
            self.text = FeatureTower(plain, inputs.text_dim, dim)
        else:
            self.text = TextTower(text, inputs.vocabulary or train_vocabulary(inputs.captions, text.vocabulary), dim)
        self.video: nn.Module = (
            FrameTower(video, dim) if inputs.video_dim is None else FeatureTower(video, inputs.video_dim, dim)
        )
        self.image_size = video.image_size

    def embed_text(self, texts: Sequence[str] | Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, d) unit embeddings.

        Args:
            texts: B texts; or (B, T, D) features where the model was made for them, with their (B, T) mask.
            mask: Of features.

        Raises:
            InputError: Words instead of features or the reverse, or an empty text.
        """
        return embed_side(self.text, texts, mask, self.inputs.text_dim is not None)

    def embed_video(self, video: Tensor, mask: Tensor) -> Tensor:
        """Return (B, d) unit embeddings of (B, T, 3, H, W) frames, uint8 or in [0, 1], or of (B, T, D) features.

        Args:
            video: Frames or features, zeros where the mask is false.
            mask: (B, T) bool.
        """
        return self.video(video, mask)  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        """Return the arguments, but `inputs`, that build this model again; JSON values."""
        return self._settings

    def parameter_groups(self) -> list[Group]:
        """Return both towers' parameters; gains and biases are not decayed."""
        return decay_groups("towers", list(self.parameters()), warm=True)


def embed_side(tower: nn.Module, texts: Sequence[str] | Tensor, mask: Tensor | None, features: bool) -> Tensor:
    """Return what a text tower answers for texts, or for features where it was made for them.

    Raises:
        InputError: The one instead of the other.
    """
    if isinstance(texts, Tensor) != features:
        got, wanted = ("features", "texts") if isinstance(texts, Tensor) else ("texts", "features")
        raise InputError(f"{got} were given, but the text side of this model takes {wanted}.")
    if isinstance(texts, Tensor):
        if mask is None:
            raise InputError("features of texts come with their mask (B, T).")
        return tower(texts, mask)  # type: ignore[no-any-return]
    return tower(list(texts))  # type: ignore[no-any-return]


def decay_groups(name: str, params: list[nn.Parameter], lr_scale: float = 1.0, warm: bool = False) -> list[Group]:
    """Return two groups of one rate: matrices, which are decayed, and gains, biases and the like, which are not."""
    matrices = [p for p in params if p.requires_grad and p.ndim > 1]
    rest = [p for p in params if p.requires_grad and p.ndim <= 1]
    return [
        Group(name, matrices, lr_scale, warm=warm),
        Group(f"{name}_gains", rest, lr_scale, weight_decay=0.0, warm=warm),
    ]
