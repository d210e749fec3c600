"""Argument lists of every command: 40 distinct ones in the fast suite, 450 in the slow one."""

from __future__ import annotations

from pathlib import Path

from hostile_judge import judge, many, sizes
from hostile_world import World, ask
from hypothesis import strategies as st

COUNTS = {"fast": 40, "slow": 450}
# Of each command what its options take; {x} is a place of the world.
OPTIONS: dict[str, list[str]] = {
    "evaluate": [
        "--embeddings", "--table", "--label", "--separator", "--split", "--group-by", "--verify", "--rerank", "--index", "--factory", "--knn",
        "--text", "--video", "--similarity", "--pairs", "--text-ids", "--video-ids", "--protocol", "--compat", "--out", "--similarity-within",
    ],
    "index build": [
        "--embeddings", "--table", "--label", "--separator", "--split", "--out", "--factory", "--metric", "--memory-budget",
        "--latency-budget-ms", "--seed", "--batch-size",
    ],
    "index add": ["--embeddings", "--table", "--label", "--replace", "--batch-size"],
    "index remove": ["--ids", "--file", "--compact"],
    "index search": ["--embeddings", "--table", "-k", "--threshold", "--out", "--json", "--text", "--batch-size"],
    "index info": ["--json"],
    "index threshold": ["--embeddings", "--table", "--false-match-rate", "--strangers", "--force"],
    "index tune": ["--queries", "-k", "--factories", "--metric", "--seed", "--set", "--embeddings"],
    "index duplicates": ["--embeddings", "--table", "--threshold", "-k", "--out", "--label"],
    "embed": ["--split", "--out", "--batch-size", "--separator", "--parquet"],
    "compare": ["--metrics", "--against", "--force", "--seed", "--csv", "--markdown", "--latex", "--html"],
    "robustness": ["--rates", "--seeds", "--sides", "--masks", "--fill", "--split", "--out"],
    "mix": ["--mixers", "--lambdas", "--pairs", "--seed", "--size", "--position", "--views", "--out", "--run"],
    "data check": ["--lists-only"],
    "data list": [],
    "train": ["--run", "--task", "--list", "--sweep"],
    "": ["--help", "--version"],
    "nothing": [],
}  # fmt: skip
WORDS = [
    "", " ", "-", "--", "---", "-1", "0", "1", "2", "1e9", "nan", "inf", "-inf", "0.5", "9" * 30, "١", "a", "a,b", ",", "all", "test", "none",
    "no such file", "é", "\udcff", "a\x00b", "a\nb", "\x1b[31m", "i0", "i0,i1", "c0", "label", "id", "seed=0", "seed=", "=", "data=glyphs_",
    "data=cub", "data.root=x", "recall@1", "k_reciprocal", "alpha_qe", "Flat", "IVF4,Flat", "HNSW8", "PQ3", "IVF0,Flat", "IVF999,Flat", "cosine",
    "dot", "manhattan", "2GB", "-2GB", "nprobe=16", "nprobe=", "ef=x", "mixup", "query,gallery", "clip4clip", "1k-A", "\t", ";", "||",
]  # fmt: skip
PLACES = [
    "e.npy",
    "t.csv",
    "text.npy",
    "video.npy",
    "pairs.csv",
    "captions.csv",
    "photos",
    "run",
    "index",
    "photos/class0/0.png",
    "absent",
    ".",
]


def calls(world: World) -> st.SearchStrategy[tuple[str, ...]]:
    """Return a command with some of its options, their values drawn without respect to what they are for."""
    value = st.sampled_from(WORDS) | st.sampled_from(PLACES).map(lambda name: f"{{{name}}}") | st.text(max_size=8)

    def of(verb: str) -> st.SearchStrategy[tuple[str, ...]]:
        option = st.sampled_from(OPTIONS[verb] or ["--x"])
        pair = st.tuples(option, value) | option.map(lambda name: (name,)) | value.map(lambda word: (word,))
        return st.lists(pair, max_size=4).map(lambda pairs: (*verb.split(), *(word for pair in pairs for word in pair)))

    return st.sampled_from(list(OPTIONS)).flatmap(of)


@sizes
def test_arguments_of_every_kind(world: World, place: Path, size: str) -> None:
    def check(call: tuple[str, ...]) -> None:
        index = world.copy("index", place)  # add, remove and threshold change it
        words = []
        for word in call:
            if word.startswith("{") and word.endswith("}") and word[1:-1] in PLACES:
                name = word[1:-1]
                word = str(index if name == "index" else world.folder / name)
            words.append(word)
        if words[:1] == ["train"]:
            words.append("--list")  # nothing is trained here
        judge(ask(*words), wrong=(1, 2))

    many(calls(world), COUNTS[size], check)
