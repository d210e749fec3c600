"""The configuration of a transformers model, by hub name or folder: data, and never code that lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metrixkit.errors import InputError
from metrixkit.foreign import read_json

MOST = 2**24  # any number in a configuration: sizes, tokens, pixels
MOST_LAYERS = 4096  # of num_hidden_layers and its kin, which transformers counts through when it reads them


def transformers_config(name: str, said: str) -> Any:
    """Return the configuration, by a class of transformers itself.

    Args:
        name: Hub name or local folder.
        said: What the user called it, for messages.

    Raises:
        InputError: None there, one that cannot be right, or a model that brings its own code: that is neither run nor
            asked for.
    """
    from transformers import AutoConfig  # seconds to import; only these backbones need it

    path = Path(name) / "config.json"
    if path.exists():
        _check_numbers(read_json(path), path)
    try:
        config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the hub, its HTTP client and each kind of configuration raise their own kinds
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{said} brings its own code, which is not run. Expected an architecture that transformers itself has."
            ) from error
        raise InputError(
            f"{said}: no configuration ({error}). Expected a hub name that can be reached or is cached, or a folder "
            "with config.json."
        ) from error
    # Kernels are code too, and transformers would fetch those that a configuration names.
    config._attn_implementation = None
    return config


def from_config(model: Any, config: Any, said: str) -> Any:
    """Return a model of transformers with drawn weights.

    Raises:
        InputError: Settings of which no model can be built.
    """
    try:
        return model(config)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # sizes below 0, heads that do not divide, ...
        raise InputError(f"{said}: no model can be built of its configuration ({error}).") from error


def _check_numbers(content: Any, path: Path, key: str = "") -> None:
    if isinstance(content, dict):
        for inner, value in content.items():
            _check_numbers(value, path, inner)
    elif isinstance(content, list):
        for value in content:
            _check_numbers(value, path, key)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        most = MOST_LAYERS if key.startswith("num_") or "layers" in key else MOST
        if abs(content) > most and not key.startswith("num_pos"):
            raise InputError(f"{path}: {key} is {content!r}; expected at most {most}.")
