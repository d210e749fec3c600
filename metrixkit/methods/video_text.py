"""Texts and videos into one space: encode both sides, gather them over processes, take a loss on matched pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from metrixkit.distributed import gather, world_size
from metrixkit.errors import InputError
from metrixkit.losses import DynamicMixedMargin
from metrixkit.mixing import mix_inputs
from metrixkit.models.video_text import decay_groups
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class VideoTextRetrieval(nn.Module):
    """Any loss on matched pairs, clean, with DMM, or with m2-Mix.

    Args:
        model: ``embed_video(x, mask)`` and ``embed_text(texts or features, mask)`` answer (B, d) unit embeddings;
            ``modality`` names the video side in the batch, ``parameter_groups()`` its parameters.
        loss: ``loss(video, text)`` on (B, d) each answers a scalar; may hold parameters (a temperature), and may answer
            ``logs()`` and ``set_epoch(epoch)``.
        mix: Where a dynamic mixed margin mixes: the "input" (frames or features of the video side, which are encoded
            once more; the paper's way), or embeddings ("embed", which costs nothing).
        loss_lr: Factor on the base rate for the loss's own parameters.

    Raises:
        InputError: A loss that takes something else, or mixed inputs of a side that has none.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, mix: Literal["input", "embed"] = "input", loss_lr: float = 1.0
    ) -> None:
        super().__init__()
        host = getattr(loss, "loss", loss)  # what DMM is wrapped around
        if getattr(host, "takes", "labels") != "pairs":
            raise InputError(
                "the method 'video_text' takes a loss on matched pairs (symmetric_cross_entropy, info_nce, nt_xent, "
                f"max_margin, m2_mix, or dmm on one of them); {type(host).__name__} takes something else."
            )
        if isinstance(loss, DynamicMixedMargin) and mix == "input" and loss.side != "a":
            raise InputError(
                f"loss.side={loss.side!r}: words cannot be mixed. Side 'a' is the video; or set method.mix=embed, "
                "which mixes embeddings of either side."
            )
        self.model, self.loss, self.mix, self.loss_lr = model, loss, mix, loss_lr

    def needs(self) -> Needs:
        """Captions and the modality that the model names; pairs couple the rows of a batch."""
        return Needs(views=0, labels=False, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch; in several processes, that of all their pairs together.

        Mixtures are of this process's own rows, and lambda is the same in all of them.
        """
        name = str(self.model.modality)
        video, mask = batch.modalities[name], batch.modalities[f"{name}_mask"]
        texts = batch.modalities.get("text", batch.texts)
        a = gather(self.model.embed_video(video, mask))  # type: ignore[operator]
        b = gather(self.model.embed_text(texts, batch.modalities.get("text_mask")))  # type: ignore[operator]
        if isinstance(self.loss, DynamicMixedMargin) and self.mix == "input" and self.loss.current_weight > 0:
            total = self._mixed(a, b, video, mask)
        else:
            total = self.loss(a, b)

        def logs() -> dict[str, float]:
            told: dict[str, float] = self.loss.logs() if hasattr(self.loss, "logs") else {}  # type: ignore[operator]
            found = {name if name == "lambda" else f"loss/{name}": value for name, value in told.items()}
            scale = getattr(getattr(self.loss, "loss", self.loss), "scale", None)
            return found if scale is None else found | {"logit_scale": float(scale.detach())}

        return Output({"total": total}, logs)

    def _mixed(self, a: Tensor, b: Tensor, video: Tensor, mask: Tensor) -> Tensor:
        """Return the loss with the video side mixed before it is encoded a second time."""
        lam, partner = self.loss.draw(len(video))  # type: ignore[operator]
        mixed = gather(self.model.embed_video(mix_inputs(video, lam, partner), mask))  # type: ignore[operator]
        # Every process draws the same: the rows of all are its own, over and over.
        everywhere = lam.repeat(world_size()) if isinstance(lam, Tensor) else lam
        return self.loss(a, b, mixed_a=mixed, lam=everywhere)  # type: ignore[no-any-return]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the model; both its towers."""
        return {"pair": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the model's groups and, where the loss has parameters, these with their own rate and no decay."""
        groups: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        own = [p for p in self.loss.parameters() if p.requires_grad]
        return [*groups, *decay_groups("loss", own, self.loss_lr, warm=True)] if own else groups

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Tell the epoch to a loss that weighs its parts by it."""
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(epoch)  # type: ignore[operator]
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""
