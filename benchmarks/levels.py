"""What Metrix adds to a whole training step at its three levels: images to updated weights, ResNet-50 at 224 pixels.

    OMP_NUM_THREADS=1 python benchmarks/levels.py
    OMP_NUM_THREADS=1 python benchmarks/levels.py --batch 40 --size 128 --repetitions 3    # a quick look

One thread, CPU-seconds, random weights, multi-similarity, classes of five, frozen batch norm as in the paper's recipe
(its statistics would otherwise take part in the timing of nothing). A step is forward, backward and update; the steps
take turns, and times are medians. Beside each ratio stand the mixtures that were encoded (or, at embedding level,
compared) and the comparisons of anchors with them. The default batch is the paper's, 20 classes of 5 images, at about
40 CPU-seconds and 10 GB a step (20 GB with mixed inputs).
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import time
from dataclasses import dataclass

import torch

from metrixkit.losses import Metrix, MultiSimilarity
from metrixkit.methods import MetricLearning
from metrixkit.mixing import plan_pairs, unique_mixtures
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch


@dataclass
class Case:
    what: str
    pooling: str
    target: float | None
    settings: dict

    def method(self, model: ImageEncoder) -> MetricLearning:
        loss = MultiSimilarity()
        return MetricLearning(model, Metrix(loss, **self.settings) if self.settings else loss)


CASES = [
    Case("plain", "avg", None, {}),
    Case("plain", "avg+max", None, {}),
    Case("embed, all pairs", "avg+max", 1.05, {"level": "embed"}),
    Case("feature, one mixture per image", "avg+max", 1.1, {"level": "feature", "hardest": 1, "positives": 1}),
    Case("feature, 20 hardest", "avg", 1.1, {"level": "feature", "hardest": 20}),
    Case("feature, all pairs", "avg+max", 1.3, {"level": "feature"}),
    Case("input, one mixture per image", "avg+max", 2.2, {"level": "input", "hardest": 1, "positives": 1}),
]


def step(method: MetricLearning, batch: Batch) -> float:
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-6)
    start = time.process_time()
    method(batch).losses["total"].backward()
    optimizer.step()
    seconds = time.process_time() - start
    optimizer.zero_grad(set_to_none=True)
    return seconds


def counted(case: Case, model: ImageEncoder, batch: Batch) -> str:
    """Return how many mixtures and comparisons a step of this case has."""
    if not case.settings:
        return ""
    with torch.no_grad():
        relations = MultiSimilarity().relations(model(batch.views[0]), batch.labels)
    hardest, positives = (case.settings.get(name) for name in ("hardest", "positives"))
    similarity = relations.similarity
    plan = plan_pairs("positive-negative", relations.positive, relations.negative, similarity, hardest, positives)
    found = unique_mixtures(plan)
    return f"{len(found):>6,} mixtures, {len(found.anchor):>6,} comparisons"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100, help="images, a multiple of 5")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--backbone", default="timm/resnet50")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", default="", help="only the cases whose name matches this pattern, and the plain ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        0, 256, (options.batch, 3, options.size, options.size), dtype=torch.uint8, generator=generator
    )
    labels = torch.arange(options.batch) % (options.batch // 5)
    batch = Batch([str(i) for i in range(options.batch)], labels, [images])
    models = {
        pooling: ImageEncoder(options.backbone, pooling=pooling, image_size=options.size, freeze_batch_norm=True)
        for pooling in ("avg", "avg+max")
    }
    cases = [case for case in CASES if not case.settings or re.search(options.only, case.what)]
    methods = [case.method(models[case.pooling]) for case in cases]
    warm = Batch(batch.ids[:10], labels[:10] % 2, [images[:10]])
    for method in methods:
        step(method, warm)
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(options.repetitions):
        for times, method in zip(seconds, methods, strict=True):
            times.append(step(method, batch))
    medians = [statistics.median(times) for times in seconds]
    print(f"{options.backbone} at {options.size} px, batch {options.batch // 5} x 5, {options.repetitions} repetitions")
    for case, median, times in zip(cases, medians, seconds, strict=True):
        plain = next(m for c, m in zip(cases, medians, strict=True) if not c.settings and c.pooling == case.pooling)
        told = "" if case.target is None else f"{median / plain:5.2f}x  <= {case.target:<4}  "
        told += "" if case.target is None else "met   " if median / plain <= case.target else "MISSED"
        spread = f"{min(times):.1f}-{max(times):.1f}"
        count = counted(case, models[case.pooling], batch)
        print(f"{case.what:<32}{case.pooling:<9}{median:8.2f} s ({spread:<13}) {told:<24}{count}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
