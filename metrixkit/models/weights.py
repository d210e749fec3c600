"""Weights from a file: read, compare with the backbone, and say what they are when they do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.models.trunk import Trunk
from metrixkit.torch_files import load_torch_file

# Entries under which training scripts keep the weights beside optimiser and epoch.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.pt``, ``.pth`` or ``.safetensors`` file by name, on the CPU.

    A checkpoint that keeps them under ``state_dict`` or ``model`` is unwrapped, ``module.`` of data-parallel training
    and ``_orig_mod.`` of torch.compile are taken off. Nothing but tensors, numbers and plain containers is
    unpickled.

    Raises:
        InputError: No such file, unreadable, or no tensors in it.
    """
    if not path.is_file():
        raise InputError(
            f"weights: there is no file {path} (looked from {Path.cwd()}). Expected none, pretrained, or the path of a "
            ".pt, .pth or .safetensors file."
        )
    state: Any
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except SafetensorError as error:
            raise InputError(f"weights: {path} is no readable safetensors file ({error}).") from error
    else:
        try:
            state = load_torch_file(path)
        except InputError as error:
            raise InputError(
                f"weights: {error} Whole pickled models are not loaded: save model.state_dict()."
            ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {str(k): v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if not tensors:
        raise InputError(f"weights: {path} holds no tensors by name; save model.state_dict() there.")
    # DDP(compile(model)) writes them in one order, compile(DDP(model)) in the other; wrappers may be nested.
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) and key != p for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def load_weights(trunk: Trunk, path: Path, backbone: str, own_pooling: bool) -> None:
    """Load the file `path` into `trunk`; everything but the classifier must match.

    Args:
        trunk: The backbone, changed in place.
        path: See :func:`read_state`; the layout is that of the backbone's library.
        backbone: Its name, for messages.
        own_pooling: Whether the weights of the model's own pooling are wanted too.

    Raises:
        InputError: Unreadable, or of another architecture: counts and examples of missing and unexpected names and of
            shapes that differ.
    """
    read = read_state(path)
    state = trunk.adapt(read)
    own = trunk.model.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    if not own_pooling:
        optional |= {k for k in own if _under(k, trunk.head_names)}
    missing = sorted(own.keys() - state.keys() - optional)
    unexpected = sorted(k for k in state.keys() - own.keys() if not _under(k, trunk.head_names))
    # A classifier's layer may be shaped otherwise under a name that the model's own pooling has as well.
    shared = {k for k in own.keys() & state.keys() if own[k].shape == state[k].shape}
    differ = sorted((own.keys() & state.keys()) - shared - optional)
    if missing or unexpected or differ:
        raise InputError(_mismatch(path, backbone, own, state, missing, unexpected, differ))
    trunk.model.load_state_dict({key: state[key] for key in shared}, strict=False)


def _under(key: str, prefixes: Iterable[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _mismatch(
    path: Path,
    backbone: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    differ: list[str],
) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

    parts = []
    if missing:
        parts.append(f"{len(missing)} of its {len(own)} tensors are missing in the file ({some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} in the file are unknown to it ({some(unexpected)})")
    if differ:
        shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in differ[:2]]
        parts.append(f"{len(differ)} have another shape ({', '.join(shapes)})")
    guess = looks_like(state)
    hint = f" The file looks like {guess}." if guess else ""
    return f"weights {path} do not fit backbone {backbone!r}: {'; '.join(parts)}.{hint}"


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Return the architecture that names and shapes point to, or an empty string."""
    keys = state.keys()
    if any(key.startswith("trunk.model.") for key in keys):
        return "a whole exported model, which load_model takes; here the backbone alone is expected"
    if any(re.match(r"features\.\d+\.squeeze\.weight", key) for key in keys):
        return "a torchvision SqueezeNet"
    if "features.denseblock1.denselayer1.conv1.weight" in keys:
        return "a DenseNet"
    if "features.18.0.weight" in keys and "features.1.conv.0.0.weight" in keys:
        return "torchvision/mobilenet_v2"
    if "layer4.0.conv1.weight" in keys:
        blocks = tuple(len({k.split(".")[1] for k in keys if k.startswith(f"layer{i}.")}) for i in range(1, 5))
        deep = "layer1.0.conv3.weight" in keys
        depths = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50 if deep else 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
        depth = next((d for counts, d in depths.items() if counts == blocks), None)
        return f"a ResNet-{depth}" if depth else "a ResNet"
    attention = re.compile(r"(?:blocks|layers?)\.(?:encoder_layer_)?(\d+)\..*(?:qkv|q_proj|query|in_proj)")
    layers = {int(found[1]) for key in keys if (found := attention.search(key))}
    if layers:
        tokens = [key for key in keys if key.endswith(("cls_token", "class_token", "class_embedding"))]
        width = f" of width {state[tokens[0]].shape[-1]}" if tokens else ""
        return f"a vision transformer with {max(layers) + 1} layers{width}"
    return ""
