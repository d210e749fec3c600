"""What every image mixer promises, and what each refuses."""

import inspect

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.mixing import IMAGE_MIXERS, cutmix, cutmix_boxes, draw_boxes, draw_ratio, manifoldmix, mixup
from metrixkit.mixing import images as room

B, C, H, W = 6, 3, 16, 8
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BOXED = ["cutmix", "saliencymix", "resizemix", "puzzlemix"]
# At lambda 0 a box clipped at the border leaves some of the first image; the others leave none.
WHOLE_AT_ZERO = ["mixup", "fmix", "puzzlemix"]


def batch(count=B, dtype=torch.float32, seed=0, size=(H, W)):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, C, *size), generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.randperm(count, generator=generator)


def settings(name, count=B, size=(H, W), partner_given=False, device="cpu"):
    """Return what a mixer wants beyond the four arguments all take."""
    saliency = torch.rand((count, *size), generator=torch.Generator().manual_seed(7)).to(device)
    labels = torch.arange(count, device=device) % 2
    extra = {"puzzlemix": {"saliency": saliency}, "inter-intra": {"labels": labels}}.get(name, {})
    if partner_given and name == "puzzlemix":
        extra["partner_saliency"] = saliency.flip(0)
    if partner_given and name == "inter-intra":
        extra["partner_labels"] = labels.flip(0)
    return extra


def run(name, images, partner, lam, seed=0, **more):
    rows = partner.ndim == 1
    extra = settings(name, len(images), tuple(images.shape[-2:]), not rows, images.device) | more
    return IMAGE_MIXERS[name](images, partner, lam, torch.Generator().manual_seed(seed), **extra)


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_one_signature(name):
    parameters = list(inspect.signature(IMAGE_MIXERS[name]).parameters)
    assert parameters[:4] == ["images", "partner", "lam", "generator"]
    assert inspect.getdoc(IMAGE_MIXERS[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_mixture_share_and_mask_belong_together(name, dtype, device):
    images, partner = batch(dtype=dtype)
    images = images.to(device)
    before = images.clone()
    lam = draw_ratio(1.0, torch.Generator().manual_seed(3), (B,))
    mixed = run(name, images, partner, lam)
    assert torch.equal(images, before)
    assert mixed.images.shape == images.shape
    assert mixed.images.dtype == mixed.lam.dtype == dtype
    assert mixed.images.device == mixed.lam.device == images.device
    assert ((mixed.images >= 0) & (mixed.images <= 1)).all()
    assert mixed.lam.shape == (B,)
    if mixed.mask is None:
        share = mixed.lam.view(B, 1, 1, 1)
    else:
        share = mixed.mask
        assert share.shape == (B, 1, H, W)
        assert ((share >= 0) & (share <= 1)).all()
        exact = 1 / (H * W) if name == "fmix" else 1e-6  # of which lambda is rounded to whole pixels
        assert (share.mean((1, 2, 3)) - mixed.lam).abs().max() <= exact
    if name not in ("puzzlemix", "resizemix"):  # which do not take the partner's pixels where they were
        expected = share * images + (1 - share) * images[partner.to(device)]
        assert torch.allclose(mixed.images, expected, atol=1e-6)


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_lambda_one_is_the_first_image(name):
    images, partner = batch()
    for lam in (1.0, torch.ones(B)):
        mixed = run(name, images, partner, lam)
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.lam, torch.ones(B))


@pytest.mark.parametrize("name", WHOLE_AT_ZERO)
def test_lambda_zero_is_the_partner(name):
    images, partner = batch()
    for lam in (0, torch.zeros(B)):
        mixed = run(name, images, partner, lam)
        assert torch.equal(mixed.images, images[partner])
        assert torch.equal(mixed.lam, torch.zeros(B))


@pytest.mark.parametrize("name", [n for n in IMAGE_MIXERS if n not in ("puzzlemix", "resizemix")])
def test_an_image_that_is_its_own_partner_stays(name):
    images, _ = batch()
    assert torch.equal(run(name, images, torch.arange(B), 0.4).images, images)


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_partners_as_rows_and_as_images(name):
    images, _ = batch()
    flip = torch.arange(B - 1, -1, -1)
    lam = torch.linspace(0.1, 0.9, B)
    by_rows, by_images = run(name, images, flip, lam), run(name, images, images.flip(0), lam)
    for a, b in zip(by_rows, by_images, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_a_seed_settles_all_and_one_number_is_taken(name):
    images, partner = batch()
    lam = torch.linspace(0.1, 0.9, B)
    assert all(
        (a is None and b is None) or torch.equal(a, b)
        for a, b in zip(run(name, images, partner, lam), run(name, images, partner, lam), strict=True)
    )
    # Processes whose batches differ stay together.
    first, again = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    IMAGE_MIXERS[name](images, partner, 0.5, first, **settings(name))
    IMAGE_MIXERS[name](images[:2], torch.tensor([1, 0]), 0.5, again, **settings(name, 2))
    assert torch.equal(first.get_state(), again.get_state())


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_a_batch_of_one_and_bytes(name):
    images = (batch(1)[0] * 255).to(torch.uint8)
    mixed = run(name, images, torch.tensor([0]), 0.5)
    assert mixed.images.shape == (1, C, H, W)
    assert mixed.images.dtype == torch.float32
    assert mixed.images.max() <= 1


@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_gradients_reach_both_images(name):
    images, partner = batch(dtype=torch.float64)
    others = images[partner].clone().requires_grad_()
    images = images.requires_grad_()
    mixed = run(name, images, others, 0.5)
    mixed.images.sum().backward()
    assert not mixed.lam.requires_grad
    # Of an image's sum its mixture holds its share (PuzzleMix may show a patch twice, ResizeMix fewer pixels).
    assert images.grad.sum((1, 2, 3)).tolist() == pytest.approx((mixed.lam * C * H * W).tolist())
    if name not in ("puzzlemix", "resizemix"):
        assert (images.grad + others.grad).flatten().tolist() == pytest.approx([1.0] * images.numel())
    assert (others.grad != 0).any()


@pytest.mark.parametrize("name", ["cutmix", "resizemix", "fmix", "puzzlemix", "cutmix-or-mixup"])
def test_images_on_half_precision_keep_their_type(name):
    images, partner = batch(dtype=torch.bfloat16)
    mixed = run(name, images, partner, 0.3)
    assert mixed.images.dtype == torch.bfloat16
    assert mixed.lam.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", IMAGE_MIXERS)
def test_cuda_equals_cpu(name):
    images, partner = batch()
    lam = torch.linspace(0.1, 0.9, B)
    here = run(name, images, partner, lam, seed=2)
    there = run(name, images.cuda(), partner, lam, seed=2)
    assert torch.allclose(here.lam, there.lam.cpu())
    assert torch.allclose(here.images, there.images.cpu(), atol=1e-6)


def test_one_draw_of_boxes_at_several_sizes():
    lam = torch.full((200,), 0.4)
    boxes = draw_boxes(lam, 200, torch.Generator().manual_seed(0))
    shares = []
    for size in (224, 160, 32):
        images = torch.zeros(200, 1, size, size)
        mixed = cutmix_boxes(images, images + 1, boxes)
        assert torch.allclose(1 - mixed.images.mean((1, 2, 3)), mixed.lam, atol=1e-6)
        shares.append(mixed.lam)
    assert (shares[0] - shares[1]).abs().max() < 0.02
    assert (shares[0] - shares[2]).abs().max() < 0.1
    assert not torch.equal(shares[0], shares[1])
    # The draw is cutmix's own.
    images = torch.rand(200, 1, 32, 32)
    again = cutmix(images, images.flip(0), lam, torch.Generator().manual_seed(0))
    assert torch.equal(again.images, cutmix_boxes(images, images.flip(0), boxes).images)


def test_a_box_or_a_mask_may_be_shared():
    images, partner = batch()
    for name, more in (
        ("cutmix", {"shared_box": True}),
        ("resizemix", {"shared_box": True}),
        ("saliencymix", {"shared_box": True}),
        ("fmix", {"shared_mask": True}),
    ):
        shared, own = run(name, images, partner, 0.5, **more), run(name, images, partner, 0.5)
        assert (shared.mask == shared.mask[:1]).all(), name
        assert (own.mask != own.mask[:1]).any(), name


def test_boxes_lie_everywhere_and_as_large_as_asked():
    images = torch.zeros(4000, 1, 20, 12)
    mixed = cutmix(images, images + 1, 0.75, torch.Generator().manual_seed(1))
    # Sides 10 and 6, clipped: expected area of a box with an even centre, side by side.
    expected = 1.0
    for size, side in ((20, 10), (12, 6)):
        half = side // 2
        expected *= sum(min(c + half, size) - max(c - half, 0) for c in range(size)) / size**2
    assert 1 - mixed.lam.mean().item() == pytest.approx(expected, abs=0.005)
    assert ((1 - mixed.mask).sum((0, 1)) > 0).all()
    assert len(mixed.lam.unique()) > 10


def test_resizemix_readings_of_lambda():
    images = torch.zeros(3000, 1, 40, 40)

    def side(scale, lam):
        mixed = IMAGE_MIXERS["resizemix"](images, images + 1, lam, torch.Generator().manual_seed(0), scale=scale)
        return (1 - mixed.mask).amax(2).sum((1, 2)) / 40  # width of the box

    assert side("share", 0.75).max() == 0.5
    assert side("drawn", 0.3).max() == pytest.approx(0.3)
    for spread in (side("uniform", 0.9), side("drawn", 0.9)):  # 0.9 is outside the bounds
        assert spread.max() == pytest.approx(0.8, abs=0.06)
        assert spread.min() <= 0.1
    with pytest.raises(InputError, match="Did you mean 'uniform'"):
        side("uniforn", 0.5)


def test_the_coin_of_cutmix_or_mixup():
    images, partner = batch()
    coins = [run("cutmix-or-mixup", images, partner, 0.5, seed=s).mask is None for s in range(400)]
    assert sum(coins) / 400 == pytest.approx(0.5, abs=0.08)
    assert run("cutmix-or-mixup", images, partner, 0.5, mixup_share=1.0).mask is None
    assert run("cutmix-or-mixup", images, partner, 0.5, mixup_share=0.0).mask is not None


def test_inter_intra_by_label():
    images, _ = batch()
    partner = torch.tensor([2, 3, 1, 5, 0, 4])
    mixed = run("inter-intra", images, partner, 0.5, labels=torch.tensor([0, 0, 0, 1, 1, 1]), intra_lam=0.9)
    same = torch.tensor([True, False, True, True, False, True])
    generator = torch.Generator().manual_seed(0)
    cut = cutmix(images, partner, 0.5, generator)
    blend = mixup(images, partner, 0.9)
    rows = same.view(-1, 1, 1, 1)
    assert torch.equal(mixed.images, torch.where(rows, blend.images, cut.images))
    assert torch.equal(mixed.lam, torch.where(same, blend.lam, cut.lam))
    assert torch.equal(mixed.mask[same], torch.full((4, 1, H, W), 0.9))


@pytest.mark.parametrize("shape", [(B, 5), (B, 7, 3), (B, 4, 3, 3)])
def test_manifoldmix_of_maps_of_any_rank(shape):
    maps = torch.randn(shape, dtype=torch.float64)
    partner, lam = torch.tensor([1, 2, 3, 4, 5, 5]), torch.linspace(0, 1, B, dtype=torch.float64)
    mixed = manifoldmix(maps, partner, lam)
    for i in range(B):
        assert torch.allclose(mixed.images[i], lam[i] * maps[i] + (1 - lam[i]) * maps[partner[i]])
    assert torch.equal(manifoldmix(maps, maps[partner], 0.3).images, manifoldmix(maps, partner, 0.3).images)
    assert torch.equal(mixed.lam, lam)


X, P = batch()
G = torch.Generator()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixup(X[0], P, 0.5), r"expected \(B, C, H, W\)"),
        (lambda: mixup(X.long(), P, 0.5), "expected .* floating in"),
        (lambda: mixup(X[:0], P[:0], 0.5), "B > 0"),
        (lambda: mixup(X, P, 1.5), "lam is 1.5"),
        (lambda: mixup(X, P, torch.full((B,), -0.1)), "all in"),
        (lambda: mixup(X, P, torch.full((B - 1,), 0.1)), r"shape \(6,\)"),
        (lambda: mixup(X, P[:-1], 0.5), r"\(6,\) integers"),
        (lambda: mixup(X, P.float(), 0.5), r"\(6,\) integers"),
        (lambda: mixup(X, P > 2, 0.5), r"\(6,\) integers"),
        (lambda: mixup(X, P + 1, 0.5), "rows 1 to 6, expected 0 to 5"),
        (lambda: mixup(X, P - 1, 0.5), "rows -1 to 4"),
        (lambda: mixup(X, X[:, :, :-1], 0.5), "partner images"),
        (lambda: cutmix(X, P, 0.5, None), r"torch.Generator\(\) on the CPU"),
        (lambda: cutmix_boxes(X, P, draw_boxes(0.5, 3, G)), "got 3, expected 6"),
        (lambda: cutmix_boxes(X, P, torch.tensor([[0, 0, 17, 3]] * B)), "within the image"),
        (lambda: cutmix_boxes(X, P, torch.tensor([[3, 0, 2, 3]] * B)), "top, left, bottom, right"),
        (lambda: draw_boxes(2.0, 3, G), "lam is 2.0"),
        (lambda: run("cutmix-or-mixup", X, P, 0.5, mixup_share=2.0), "mixup_share is 2.0"),
        (lambda: run("fmix", X, P, 0.5, decay=-1.0), "decay=-1.0"),
        (lambda: run("fmix", X, P, 0.5, max_soft=2.0), "max_soft=2.0"),
        (lambda: run("saliencymix", X, P, 0.5, saliency=X), "a value a pixel of each partner"),
        (lambda: run("inter-intra", X, P, 0.5, labels=P[:2]), "one an image"),
        (lambda: run("inter-intra", X, P, 0.5, labels=P, partner_labels=P[:2]), "one a partner"),
        (lambda: room.inter_intra(X, X, 0.5, G, labels=P), "give their labels"),
        (lambda: room.puzzlemix(X, X, 0.5, G, saliency=X[:, 0]), "give their saliency"),
        (lambda: run("puzzlemix", X, P, 0.5, saliency=X), "expected floating"),
        (lambda: run("puzzlemix", X, P, 0.5, saliency=-X[:, 0]), "negative, infinite or NaN"),
        (lambda: run("puzzlemix", X, P, 0.5, blocks=3), "blocks=3 does not divide images of 16 x 8"),
        (lambda: run("puzzlemix", X, P, 0.5, blocks=4, patch=3), "patch=3 does not divide"),
        (lambda: run("puzzlemix", X[..., :7], P, 0.5), "no number of blocks"),
        (lambda: manifoldmix(X.long(), P, 0.5), "maps to mix"),
        (lambda: manifoldmix(X, P[:2], 0.5), "one row number a map"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_alpha_zero_is_refused_where_lambda_is_drawn():
    with pytest.raises(InputError, match="alpha is 0"):
        draw_ratio(0.0, G)
