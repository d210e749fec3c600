"""A trained model as one object: images in, embeddings out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from metrixkit.data.decode import decode, image_to_tensor
from metrixkit.data.transforms import eval_transform_from_config
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.export import ALL_KINDS, CONFIG, WEIGHTS, load_encoder, read_config
from metrixkit.models.pair_export import KINDS as PAIR_KINDS
from metrixkit.models.pair_export import VOCABULARY, load_pair_model

ImageLike = str | Path | bytes | Image.Image | Tensor


class EmbeddingModel:
    """An encoder with the evaluation transform it was measured with.

    Args:
        encoder: The encoder; moved to `device` and put into evaluation mode.
        transform: Evaluation transform as ``metrixkit.data.transforms.eval_transform_config`` describes it.
        device: Where to compute; None leaves the encoder where it is.

    Attributes:
        encoder: The encoder.
        transform: (3, H, W) uint8 to (3, S, S) uint8.
        transform_config: The same as JSON can hold it.
        device: Where embeddings are computed.

    Example:
        >>> model = load_model("runs/glyphs_metrix")           # doctest: +SKIP
        >>> embeddings = model.embed(["a.jpg", "b.png"])       # doctest: +SKIP
        >>> embeddings.shape                                   # doctest: +SKIP
        torch.Size([2, 512])
    """

    def __init__(
        self, encoder: ImageEncoder, transform: Mapping[str, Any], device: str | torch.device | None = None
    ) -> None:
        self.device = torch.device(device) if device is not None else next(encoder.parameters()).device
        self.encoder = encoder.to(self.device).eval()
        self.transform_config = dict(transform)
        self.transform: nn.Module = eval_transform_from_config(transform)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.encoder.embedding_dim

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that change with whatever changes an embedding: weights, pooling, input, transform.

        An index keeps it, to refuse queries of another model.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        kept = ("pooling", "normalize", "image_size", "mean", "std")
        settings = {key: value for key, value in self.encoder.settings().items() if key in kept}
        digest.update(json.dumps([settings, self.transform_config], sort_keys=True).encode())
        return digest.hexdigest()

    def embed(self, inputs: ImageLike | Sequence[ImageLike], batch_size: int = 64) -> Tensor:
        """Return one embedding for each image.

        Args:
            inputs: Paths (anything :func:`metrixkit.data.decode.decode` opens), Pillow images, or uint8 tensors
                (3, H, W), mixed as one likes; or one (N, 3, H, W) uint8 tensor; or a single image. The evaluation
                transform is applied to all of them alike, so that a path, the open image and its pixels agree.
            batch_size: Images that are decoded and encoded at a time; the result does not depend on it beyond rounding.

        Returns:
            (N, d) float32 on the CPU, in the order of `inputs`; (0, d) for none.

        Raises:
            InputError: An image that cannot be read, or something that is none; its position is named.
        """
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size}: expected at least 1.")
        items = _as_list(inputs)
        rows = [torch.empty(0, self.embedding_dim)]
        with torch.inference_mode():
            for start in range(0, len(items), batch_size):
                part = enumerate(items[start : start + batch_size], start)
                images = torch.stack([self.transform(_pixels(item, position)) for position, item in part])
                rows.append(self.encoder(images.to(self.device)).float().cpu())
        # Out of inference mode: the caller may well use these rows in a graph of their own.
        return torch.cat(rows)


def load_model(
    where: str | Path, device: str | torch.device | None = None, trust: bool = False
) -> EmbeddingModel | PairEmbeddingModel:
    """Return the model at `where`, ready to embed: images by ``embed``, or texts and videos by ``embed_text`` and
    ``embed_video``.

    Args:
        where: A run folder (its ``model/`` is taken), a folder with ``model.safetensors`` and ``config.json``, or a
            name on the Hugging Face hub (``owner/name``; downloaded unless cached), tried in this order.
        device: Where to compute; None is the CPU.
        trust: Import and run a backbone that the folder names as ``package.module:Name``. A folder is data otherwise:
            tensors and settings are read, nothing in it runs, whoever wrote it.

    Raises:
        InputError: Nothing there, no model that metrixkit wrote, or one that needs code and is not trusted.
    """
    folder = _find(where)
    if read_config(folder, ALL_KINDS)["kind"] in PAIR_KINDS:
        model, config = load_pair_model(folder)
        return PairEmbeddingModel(model, config["transform"], device)
    encoder, config = load_encoder(folder, trust)
    return EmbeddingModel(encoder, config["transform"], device)


def kind_of_model(where: str | Path) -> str:
    """Return "image", "video_text" or "clip_video_text"; arguments and errors as :func:`load_model`."""
    return str(read_config(_find(where), ALL_KINDS)["kind"])


def load_image_model(
    where: str | Path, device: str | torch.device | None = None, trust: bool = False
) -> EmbeddingModel:
    """Return the model of images at `where`; arguments as :func:`load_model`.

    Raises:
        InputError: As there; or the model there is one of texts and videos.
    """
    model = load_model(where, device, trust)
    if not isinstance(model, EmbeddingModel):
        raise InputError(f"the model at {where} embeds texts and videos, not images; here a model of images is needed.")
    return model


def _find(where: str | Path) -> Path:
    path = Path(where)
    for folder in (path / "model", path):
        if (folder / CONFIG).is_file() or (folder / WEIGHTS).is_file():
            return folder
    if path.exists():
        held = "is a file" if path.is_file() else "has neither model/ nor model.safetensors"
        raise InputError(
            f"no model at {path}: it {held}. Expected a run folder that finished, or an exported model's folder."
        )
    name = str(where)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"no model at {name}: no such folder (looked from {Path.cwd()}), and no hub name (owner/name)."
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, VOCABULARY, "backbone/*"]))
    except Exception as error:  # HTTP, cache and validation errors come as many kinds
        raise InputError(
            f"no model at {name}: no such folder (looked from {Path.cwd()}), and the Hugging Face hub did not give it "
            f"({type(error).__name__}: {error}). Without a network, fetch it elsewhere and give the folder."
        ) from error


def _as_list(inputs: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    if isinstance(inputs, (str, Path, bytes, Image.Image)) or (isinstance(inputs, Tensor) and inputs.ndim == 3):
        return [inputs]
    if isinstance(inputs, Tensor):
        if inputs.ndim != 4:
            raise InputError(f"a tensor of shape {tuple(inputs.shape)}: expected (3, H, W) or (N, 3, H, W), uint8.")
        return inputs.unbind()
    return list(inputs) if isinstance(inputs, Iterator) else inputs


def _pixels(item: ImageLike, position: int) -> Tensor:
    if isinstance(item, Tensor):
        if item.ndim != 3 or item.shape[0] != 3 or item.dtype != torch.uint8:
            raise InputError(
                f"image {position} is a {item.dtype} tensor of shape {tuple(item.shape)}: expected uint8 (3, H, W)."
            )
        return item.cpu()
    if isinstance(item, Image.Image):
        return image_to_tensor(item)
    if isinstance(item, (str, Path, bytes)):
        return decode(item)
    raise InputError(f"image {position} is a {type(item).__name__}: expected a path, a Pillow image or a uint8 tensor.")
