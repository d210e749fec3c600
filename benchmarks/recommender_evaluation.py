"""Evaluating a recommender: all items for all users at once, beside a loop over users as the DMM release has it.

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/recommender_evaluation.py

One thread, CPU-seconds, Amazon Digital Music by the release's protocol (5,541 users, 3,568 items, 19.7 million
candidates), random vectors of 256 numbers, Euclidean distance, k = 1, 5, 10. The loop is written anew: for each user a
table of candidates with scores and labels, scikit-learn's nDCG, and the other metrics from the sorted list. It runs on
`--users` of the users, and its time is scaled up; the values of these users are compared.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import ndcg_score

from metrixkit.data.roots import data_roots
from metrixkit.data.sets.ratings import read_ratings, split_ratings
from metrixkit.retrieval.recommendation import evaluate_recommendations


def one_user(frame: pd.DataFrame, at: tuple[int, ...]) -> dict[str, float]:
    """Return the metrics of one user's candidates."""
    labels, scores = frame["label"].to_numpy(), frame["score"].to_numpy()
    wanted = labels.sum()
    if wanted == 0:
        return {f"{name}@{k}": 0.0 for k in at for name in ("ndcg", "map_by_hits", "item_recall", "hit_rate")}
    ranked = labels[np.argsort(-scores)]
    values = {}
    for k in at:
        top = ranked[:k]
        precision = np.cumsum(top) / np.arange(1, k + 1)
        values[f"ndcg@{k}"] = ndcg_score(labels[None], scores[None], k=k)
        values[f"map_by_hits@{k}"] = float((precision * top).sum() / max(top.sum(), 1))
        values[f"item_recall@{k}"] = float(top.sum() / wanted)
        values[f"hit_rate@{k}"] = float(top.any())
    return values


def loop(users: np.ndarray, items: np.ndarray, liked: set, seen: set, some: range, at: tuple[int, ...]) -> pd.DataFrame:
    """Return the metrics of some users, one by one."""
    rows = []
    for user in some:
        candidates = [item for item in range(len(items)) if (user, item) not in seen]
        frame = pd.DataFrame(
            {
                "item": candidates,
                "label": [int((user, item) in liked) for item in candidates],
                "score": 2 - np.linalg.norm(users[user] - items[candidates], axis=1),
            }
        )
        rows.append(one_user(frame, at))
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=600)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = next(
        root / "amazon_digital_music" / "train.csv" for root in data_roots() if (root / "amazon_digital_music").is_dir()
    )
    split = split_ratings(read_ratings(path))
    rng = np.random.default_rng(0)
    count, total = len(split.ratings.user_ids), len(split.ratings.item_ids)
    users, items = (rng.normal(size=(n, 256)) / 16 for n in (count, total))
    at = (1, 5, 10)
    liked, seen = set(map(tuple, split.held_out.tolist())), set(map(tuple, split.seen.tolist()))
    ours, theirs = [], []
    for _ in range(options.repetitions):
        start = time.process_time()
        found = evaluate_recommendations(users, items, split.held_out, split.seen, at)
        ours.append(time.process_time() - start)
        start = time.process_time()
        table = loop(users, items, liked, seen, range(options.users), at)
        theirs.append((time.process_time() - start) * count / options.users)
    for name in table:
        assert np.allclose(found.per_query[name].to_numpy()[: options.users], table[name], atol=1e-9), name
    a, b = np.median(ours), np.median(theirs)
    print(f"{count:,} users, {total:,} items, medians of {options.repetitions}, CPU-seconds of one thread")
    print(f"metrixkit                     {a:8.2f}")
    print(
        f"loop over users (scaled up)   {b:8.2f}   {b / a:.0f}x  (target >= 20x: {'met' if b >= 20 * a else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
