"""What is imported before a command does anything: a spelling mistake must not wait for libraries it has no use for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What every command reads; what trains, embeds, draws, searches or classifies is imported where it is called.
COMMANDS = "metrixkit.config, metrixkit.experiment, metrixkit.judging.labelled, metrixkit.indexing.verbs, metrixkit.sheets.make"
HEAVY = [
    "faiss", "lightning_fabric", "matplotlib", "numba", "pytorch_metric_learning", "scipy", "sklearn", "tensorboard", "timm",
    "torch._dynamo", "torchvision", "transformers",
]  # fmt: skip


def test_commands_start_without_what_they_may_not_need(repository: Path) -> None:
    code = f"""
import sys
import metrixkit, metrixkit.__main__, metrixkit.train, metrixkit.evaluate, metrixkit.index, metrixkit.compare
print([name for name in ("torch", "pandas", "numpy") if name in sys.modules])
import metrixkit._faiss, {COMMANDS}
print([name for name in {HEAVY} if name in sys.modules])
print("torch" in sys.modules)  # before faiss, always: the other order crashes on some systems
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["[]", "[]", "True", ""]
