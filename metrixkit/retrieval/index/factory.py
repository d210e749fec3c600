"""The kinds of index on offer: a small grammar over faiss's ``index_factory`` strings, and what each kind can do.

faiss takes many more strings. Only those are taken here that searching, adding, removing, filtering, reconstructing
and saving are tested for, and that keep cosine and inner product what they are (PCA does not: it subtracts a mean).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from metrixkit.errors import InputError, did_you_mean

OFFERED = (
    "Flat", "SQ8", "SQfp16", "PQ16", "PQ32x4fs", "HNSW32", "HNSW32,SQ8", "IVF256,Flat", "IVF256,SQ8", "IVF256,SQfp16",
    "IVF256,PQ16", "IVF256,PQ32x4fs", "IVF256,PQ32x4fs,RFlat", "PQ32x4fs,RFlat", "SQ8,RFlat", "OPQ16,PQ16",
    "OPQ16,IVF256,PQ16", "OPQ32,IVF256,PQ32x4fs,RFlat",
)  # fmt: skip
PER_LIST = 39  # vectors a k-means centre wants at least, as faiss has it
_GRAMMAR = re.compile(
    r"(?:OPQ(?P<rotate>\d+)(?:_(?P<reduced>\d+))?,)?(?:IVF(?P<lists>\d*),)?"
    r"(?:HNSW(?P<graph>\d+)(?:,(?P<stored>Flat|SQ8))?|(?P<codec>Flat|SQ8|SQfp16|PQ(?P<parts>\d+)(?P<fast>x4fs)?))"
    r"(?P<refine>,RFlat)?"
)


@dataclass(frozen=True)
class Factory:
    """One kind of index.

    Attributes:
        codec: How a vector is kept: "Flat" (float32), "SQ8", "SQfp16", or "PQ" (see `parts`).
        lists: Inverted lists (IVF), or 0.
        graph: Links a vector has at the upper levels of an HNSW graph, or 0.
        parts: Sub-quantizers of PQ, or 0.
        fast: Whether PQ has 4 bits a part and is scanned in registers (``x4fs``), instead of 8 bits.
        rotate: Whether PQ sees rotated vectors (OPQ).
        reduced: Dimension after OPQ, 0 for the same.
        refine: Whether the vectors are kept as float32 too and the first results are scored by them (RFlat).
    """

    codec: str
    lists: int = 0
    graph: int = 0
    parts: int = 0
    fast: bool = False
    rotate: bool = False
    reduced: int = 0
    refine: bool = False

    def __str__(self) -> str:
        """Return the string that faiss reads."""
        codec = f"PQ{self.parts}{'x4fs' if self.fast else ''}" if self.parts else self.codec
        if self.graph:
            return f"HNSW{self.graph},{codec}"
        rotation = f"OPQ{self.parts}{f'_{self.reduced}' if self.reduced else ''}," if self.rotate else ""
        lists = f"IVF{self.lists}," if self.lists else ""
        return f"{rotation}{lists}{codec}{',RFlat' if self.refine else ''}"

    @property
    def removes(self) -> bool:
        """Whether faiss can take a vector out; if not, removed ones stay in the file as tombstones until compacted.

        A graph has no removal, and the two halves of a refined index would number what is left differently.
        """
        return not (self.graph or self.refine)

    @property
    def filters(self) -> bool:
        """Whether faiss can pass over vectors while it searches; if not, more are fetched and sorted out after."""
        return bool(self.lists) or not self.parts

    @property
    def exact_vectors(self) -> bool:
        """Whether the float32 vectors are kept, so that scores (up to their rounding) and `reconstruct` are exact."""
        return self.codec == "Flat" or self.refine

    @property
    def trains(self) -> bool:
        """Whether it learns centres, code books or ranges from vectors before it takes any."""
        return bool(self.lists or self.parts) or self.codec == "SQ8"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what can be set for searching: "nprobe", "efSearch", "k_factor"."""
        have = {"nprobe": self.lists, "efSearch": self.graph, "k_factor": self.refine}
        return tuple(name for name, there in have.items() if there)

    def defaults(self) -> dict[str, int]:
        """Return the parameters an index starts with.

        faiss starts with one list of all, 16 candidates in a graph and no spare candidates for refinement, which find
        too little to be of use. Here: the square root of the lists, 64, and ten times k.
        """
        values = {"nprobe": max(1, round(self.lists**0.5)), "efSearch": 64, "k_factor": 10}
        return {name: values[name] for name in self.parameters}

    def code_bytes(self, dim: int) -> int:
        """Return the bytes of one vector as searching scans it."""
        if self.parts:
            return (self.parts + 1) // 2 if self.fast else self.parts
        return dim * {"Flat": 4, "SQ8": 1, "SQfp16": 2}[self.codec]

    def vector_bytes(self, dim: int) -> int:
        """Return the bytes one vector takes in all: code, number in its list, links, float32 copy."""
        links = 4 * (2 * self.graph + 4) if self.graph else 0
        return self.code_bytes(dim) + (8 if self.lists else 0) + links + (4 * dim if self.refine else 0)

    def fixed_bytes(self, dim: int) -> int:
        """Return the bytes an empty index takes: centres of lists, code books, rotation."""
        space = self.reduced or dim
        books = 4 * space * (16 if self.fast else 256) if self.parts else 0
        return 4 * self.lists * space + books + (4 * dim * space if self.rotate else 0)

    def least_training(self) -> int:
        """Return how many vectors training needs at the very least: one a centre."""
        return max(self.lists, 1, (16 if self.fast else 256) if self.parts else 1)

    def wanted_training(self) -> int:
        """Return how many vectors training wants: enough for each centre, and no more than help."""
        return max(64 * self.lists, 2**16 if self.parts or self.codec == "SQ8" else 1)


def parse_factory(text: str, dim: int, count: int | None) -> Factory:
    """Read a factory string.

    Args:
        text: As faiss writes it, for example "IVF1024,PQ32x4fs,RFlat". "IVF" without a number takes :func:`lists_for`.
        dim: Dimension of the vectors.
        count: How many vectors the index will start with; None for one that is trained already.

    Raises:
        InputError: Not one of the kinds on offer, or numbers that do not fit the dimension or the count.
    """
    text = str(text).replace(" ", "")
    found = _GRAMMAR.fullmatch(text)
    if found is None:
        raise InputError(
            f"factory={text!r} is not on offer.{did_you_mean(text, OFFERED)} On offer, with numbers of your own: "
            f"{'; '.join(OFFERED)}; or 'auto'."
        )
    part = found.groupdict()
    given = {name: int(part[name] or 0) for name in ("rotate", "reduced", "lists", "graph", "parts")}
    asked = part["lists"] is not None
    factory = Factory(
        codec=part["stored"] or "Flat" if given["graph"] else "PQ" if given["parts"] else str(part["codec"]),
        lists=(given["lists"] or lists_for(count or 1)) if asked else 0,
        graph=given["graph"],
        parts=given["parts"],
        fast=part["fast"] is not None,
        rotate=part["rotate"] is not None,
        reduced=given["reduced"],
        refine=part["refine"] is not None,
    )
    wrong = _misfit(factory, given["rotate"], dim) or (part["lists"] == "0" and "IVF0 has no list")
    if wrong:
        raise InputError(f"factory={text!r}: {wrong}.")
    least = factory.least_training()
    if count is not None and count < least:
        raise InputError(
            f"factory={text!r} needs at least {least} vectors to start with, found {count}. Take factory='Flat', which "
            "is exact and fast at this size, or smaller numbers."
        )
    return factory


def _misfit(factory: Factory, rotate: int, dim: int) -> str:
    space = factory.reduced or dim
    if factory.graph and (factory.lists or factory.rotate or factory.refine):
        return "HNSW stands alone or with how it stores vectors (HNSW32, HNSW32,SQ8)"
    if factory.graph and not 4 <= factory.graph <= 256:
        return f"HNSW takes 4 to 256 links, found {factory.graph}"
    if factory.refine and factory.codec == "Flat":
        return "RFlat keeps float32 vectors beside the codes, and Flat has them already; leave RFlat out"
    if factory.rotate and factory.parts != rotate:
        return f"OPQ{rotate} prepares vectors for as many parts; write it before PQ{rotate}"
    if factory.reduced and not factory.reduced <= dim:
        return f"OPQ cannot turn {dim} dimensions into {factory.reduced}"
    if factory.parts and space % factory.parts:
        fits = [m for m in range(1, space + 1) if space % m == 0]
        near = sorted(sorted(fits, key=lambda m: abs(m - factory.parts))[:3])
        return f"{factory.parts} parts do not divide {space} dimensions; nearest that do: {', '.join(map(str, near))}"
    return ""


def lists_for(count: int) -> int:
    """Return how many inverted lists suit `count` vectors: the power of two next to 4 sqrt(count), with 39 in each."""
    lists: int = 2 ** max(0, round(math.log2(4 * count**0.5)))
    while lists > 1 and lists * PER_LIST > count:
        lists //= 2
    return lists
