"""``metrixkit VERB ...`` and ``python -m metrixkit VERB ...``: the doors under one name."""

from __future__ import annotations

import importlib
import sys

from metrixkit._doors import guarded
from metrixkit.errors import did_you_mean

VERBS = {
    "train": "train an embedding from a config",
    "evaluate": "evaluate a run, a model, or anybody's embeddings",
    "embed": "write embeddings of images",
    "index": "build, search and tend an index of embeddings",
    "robustness": "what a model is worth where modalities are missing",
    "mix": "look at what mixers make of images",
    "compare": "tables over many runs",
    "data": "list and check data sets",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to the door that the first one names; return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: metrixkit VERB ...\n\n" + "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items()))
        print("\nmetrixkit VERB --help tells more.")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"metrixkit: no verb is called {verb!r}.{did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2

    def work() -> int:
        door = importlib.import_module("metrixkit.data.__main__" if verb == "data" else f"metrixkit.{verb}")
        return int(door.main(rest))

    return guarded(verb, work)


if __name__ == "__main__":
    sys.exit(main())
