"""The views of one image that a self-supervised recipe asks for, in the order in which batches hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from metrixkit.data.transforms import Transform, framing, photometric
from metrixkit.errors import InputError


class TrainViews:
    """Augment one image several times: each view at every resolution, small views at the end.

    The part of the image that a view shows, and whether it is mirrored, are drawn once for all its resolutions (CLIM,
    section 3.3: the same crop at several sizes); what happens to colours and sharpness is drawn for each rendering.
    With one view and nothing else the result is that of ``train_transform``, to the last draw. All numbers come from
    torch's global CPU generator; callers seed it.

    Args:
        settings: The recipe. Views 2, 4, ... follow its `second_view`.
        image_size: Side of what the encoder gets, pixels.
        views: Views of each image.
        resolutions: Sides in pixels at which each view is rendered, at most `image_size`, the same one more than once
            if so wished; empty is `image_size` alone.
        small_views: Further views of a smaller part (`settings.small_scale`), as in multi-crop (SwAV, section 3.3).
        small_size: Their side in pixels, at most `image_size`; None is 3 / 7 of it, as 96 is of 224.

    Attributes:
        sizes: Sides of the tensors that a call returns, in their order.

    Raises:
        InputError: A number out of range, or settings that are.
    """

    def __init__(
        self,
        settings: Transform,
        image_size: int,
        views: int = 1,
        resolutions: Sequence[int] = (),
        small_views: int = 0,
        small_size: int | None = None,
    ) -> None:
        if views < 1:
            raise InputError(f"views: expected 1 or more, got {views}")
        if small_views < 0:
            raise InputError(f"small views: expected 0 or more, got {small_views}")
        rendered = tuple(resolutions) or (image_size,)
        small = small_size if small_size is not None else max(round(image_size * 3 / 7), 1)
        for what, side in (*(("resolutions", side) for side in rendered), ("small size", small)):
            if not 1 <= side <= image_size:
                raise InputError(
                    f"{what}: {side} pixels, expected 1 to {image_size}, the size at which the model is evaluated; "
                    f"lower it, or set model.image_size={max(side, 1)}"
                )
        self.views = views
        self.small_views = small_views
        self.sizes = rendered * views + (small,) * small_views
        self._frame = framing(settings, image_size, rendered)
        # Small views are small parts, whatever the large ones are.
        parts = replace(settings, train="random-resized-crop", scale=settings.small_scale)
        self._small_frame = framing(parts, image_size, (small,))
        self._photometric: tuple[nn.Module, nn.Module] = (photometric(settings), photometric(settings, second=True))

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Return all views of a (3, H, W) uint8 image: each at every resolution before the next, small ones last."""
        return self.large(image) + self._render(image, self._small_frame, self.small_views)

    def large(self, image: Tensor) -> list[Tensor]:
        """Return the views without the small ones; what a partner gets."""
        return self._render(image, self._frame, self.views)

    def _render(self, image: Tensor, frame: nn.Module, views: int) -> list[Tensor]:
        return [self._photometric[view % 2](part) for view in range(views) for part in frame(image)]
