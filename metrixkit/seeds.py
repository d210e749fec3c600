"""Seeds that every generator takes: numpy, torch, scikit-learn and faiss agree on 32 bits."""

from __future__ import annotations

import argparse

from metrixkit.errors import InputError

MOST = 2**32 - 1


def check_seed(seed: int, name: str) -> int:
    """Return a seed in [0, 2**32).

    Raises:
        InputError: It is outside; the message holds `name`, the setting or option.
    """
    if not 0 <= seed <= MOST:
        raise InputError(f"{name}: expected a whole number from 0 to {MOST}, got {seed}.")
    return seed


def seed_option(text: str) -> int:
    """Return the seed that an option of a command gives, for argparse's ``type=``."""
    try:
        return check_seed(int(text), "a seed")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {MOST}, got {text!r}") from None
