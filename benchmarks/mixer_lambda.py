"""Does the Mixer's mask follow lambda, by the mask loss alone?

    OMP_NUM_THREADS=1 python benchmarks/mixer_lambda.py

Sixteen fixed smooth random maps (64 channels, 8 x 8), permuted pairs, lambda ~ Beta(2, 2), SGD with momentum 0.9: no
images and no network behind, so that nothing but the mask loss teaches the Mixer. Printed is the slope of the masks'
mean against lambda over ten lambdas, one a call, in evaluation mode, and the deviation of the masks' pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from metrixkit.losses import mask_loss
from metrixkit.mixing import Mixer, draw_ratio

ITEMS, CHANNELS, SIDE, STEPS = 16, 64, 8, 400


def trained(preset: str, per: str, kind: str, rate: float) -> tuple[float, float]:
    """Return slope and deviation after training."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    z = F.interpolate(torch.randn(ITEMS, CHANNELS, 3, 3, generator=g), SIDE, mode="bilinear").relu()
    mixer = Mixer(CHANNELS, preset).train()
    optimiser = torch.optim.SGD(mixer.parameters(), lr=rate, momentum=0.9)
    for _ in range(STEPS):
        lam = float(draw_ratio(2.0, g)) if per == "batch" else draw_ratio(2.0, g, (ITEMS,))
        first = mixer(z, z[torch.randperm(ITEMS, generator=g)], lam, 4).first
        optimiser.zero_grad()
        mask_loss(first, lam, kind, per=per).backward()
        optimiser.step()
    lams = torch.linspace(0.05, 0.95, 10)
    with torch.no_grad():
        masks = torch.stack([mixer.eval()(z, z.flip(0), float(lam), 4).first for lam in lams])
    centred, means = lams - lams.mean(), masks.flatten(1).mean(1)
    return float((centred * means).sum() / centred.square().sum()), float(masks[4].std())


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'preset':<10}{'lambda per':<12}{'mask loss':<14}{'rate':>6}{'slope':>8}{'deviation':>11}")
    for preset in ("samix", "official"):
        for per in ("batch", "sample"):
            for kind in ("l1", "l1+variance"):
                for rate in (0.03, 0.3):
                    slope, deviation = trained(preset, per, kind, rate)
                    print(f"{preset:<10}{per:<12}{kind:<14}{rate:>6}{slope:>8.2f}{deviation:>11.3f}", flush=True)


if __name__ == "__main__":
    main()
