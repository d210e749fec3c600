"""The settings that a run folder keeps: read as data, whoever made the folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.families import allow_code, names_in_folder
from metrixkit.foreign import read_yaml

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Saved:
    """What ``config.yaml`` of a run says, not yet checked.

    Attributes:
        folder: The run folder.
        settings: Plain values; empty where the folder holds no run.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def sections(self, names: Sequence[str]) -> dict[str, Any]:
        """Return a copy of those of the sections `names` that are there, for overrides to change."""
        return {name: copy.deepcopy(self.settings[name]) for name in names if name in self.settings}

    def reading(self, overrides: Sequence[str] = (), trust: bool = False) -> AbstractContextManager[None]:
        """Return the context in which the settings are resolved and what they describe is built.

        Classes of their own (``package.module:Name``) are imported if a person typed them, or trusts the folder.

        Args:
            overrides: ``key=value`` words that a person typed.
            trust: Whether the folder may name code; so it may with ``--trust``.

        Raises:
            InputError: An override that is none.
        """
        return allow_code(configs.typed_names(overrides) | names_in_folder(self.settings, trust))


def read(run: str | Path, needed: bool = True) -> Saved:
    """Return the settings of a run.

    Args:
        run: A run folder.
        needed: Whether it is an error that there are none.

    Raises:
        InputError: None there, or a file that is no mapping of plain values.
    """
    path = Path(run) / CONFIG
    if not path.exists():
        if needed:
            raise InputError(f"{run} is no run folder: {path} is missing.")
        return Saved(Path(run))
    return Saved(Path(run), read_yaml(path))
