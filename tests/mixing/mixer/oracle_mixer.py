"""The Mixer once more, by loops over pairs and places in float64, from its description; evaluation mode."""

import math

import torch
import torch.nn.functional as F


def oracle_masks(mixer, z_i, z_j, lam, size):
    """Return the (B, H, W) mask of the first image, written without any of the Mixer's own functions."""
    s = mixer.settings
    state = {name: value.double() for name, value in mixer.state_dict().items()}
    lams = [float(x) for x in torch.as_tensor(lam).expand(len(z_i))]
    masks = []
    for x, y, l in zip(z_i.double(), z_j.double(), lams, strict=True):
        height, width = x.shape[1:]
        if s.rectify:
            x, y = (torch.where(z > 0, z, torch.zeros_like(z)) for z in (x, y))
        if s.warp >= 0 and s.encoding != "none":
            big = s.warp + 1
            l = (4 / 3 * l**3 - 2 * l**2 + big * l) / (big - 2 / 3)
        if s.encoding == "factor":
            g = float(state["raw_gamma"].clamp(0, 1)) if s.gamma == "learned" else s.gamma
            x, y = x * (1 + g * l), y * (1 + g * (1 - l))
        elif s.encoding == "channel":
            x = torch.cat([x, torch.full((1, height, width), l, dtype=x.dtype)])
            y = torch.cat([y, torch.full((1, height, width), 1 - l, dtype=y.dtype)])
        places = [(r, c) for r in range(height) for c in range(width)]

        def project(name, vector, state=state, norm=s.att_norm):
            out = state[f"{name}.0.weight"][:, :, 0, 0] @ vector + state[f"{name}.0.bias"]
            return batch_norm(out, f"{name}.1") if norm else out

        def batch_norm(out, name, state=state):
            centred = out - state[f"{name}.running_mean"]
            return (
                centred / (state[f"{name}.running_var"] + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
            )

        source = y if s.content == "partner" else x
        content = []
        for r, c in places:
            v = state["content.0.weight"][:, :, 0, 0] @ source[:, r, c]
            if s.content_layers == "linear":
                content.append(float(v + state["content.0.bias"]))
                continue
            v = batch_norm(v, "content.1")
            v = v.clamp(min=0) if s.activation == "relu" else torch.where(v > 0, v, v.exp() - 1)
            content.append(float(state["content.3.weight"][:, :, 0, 0] @ v))
        spread = []
        for r, c in places:
            logits = []
            for r2, c2 in places:
                if s.projection == "sides":
                    q, k = project("query", x[:, r, c]), project("query", y[:, r2, c2])
                else:
                    key = "key" if s.projection == "two" else "query"
                    q = project("query", torch.cat([x[:, r, c], y[:, r, c]]))
                    k = project(key, torch.cat([x[:, r2, c2], y[:, r2, c2]]))
                logits.append(float(q @ k) / math.sqrt(len(q)))
            top = max(logits)
            weights = [math.exp(value - top) for value in logits]
            spread.append(sum(w * v for w, v in zip(weights, content, strict=True)) / sum(weights))
        grid = torch.tensor(spread, dtype=torch.float64).view(height, width)
        if s.order == "sigmoid-upsample":
            mask = upsample(grid.sigmoid(), size, s.upsampling)
        else:
            mask = upsample(grid, size, s.upsampling).sigmoid()
        masks.append(1 - mask if s.content == "partner" else mask)
    return torch.stack(masks)


def upsample(grid, size, how):
    """Interpolate an (h, w) grid to `size`: pixel centres on pixel centres, edges repeated."""
    if how == "nearest":
        return F.interpolate(grid[None, None], size, mode="nearest")[0, 0]
    (h, w), (big_h, big_w) = grid.shape, size
    out = torch.empty(size, dtype=grid.dtype)
    for r in range(big_h):
        for c in range(big_w):
            y, x = max((r + 0.5) * h / big_h - 0.5, 0), max((c + 0.5) * w / big_w - 0.5, 0)
            top, left = min(int(y), h - 1), min(int(x), w - 1)
            low, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = y - top, x - left
            above = (1 - b) * grid[top, left] + b * grid[top, right]
            below = (1 - b) * grid[low, left] + b * grid[low, right]
            out[r, c] = (1 - a) * above + a * below
    return out
