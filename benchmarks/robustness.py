"""Missing modalities: plain fusion, GMC, and DMM on both, over seeds; a row when each run ends.

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/robustness.py omniglot
    OMP_NUM_THREADS=1 python benchmarks/robustness.py glyphs

Each seed draws its own validation classes and weights, trains, selects its epoch by the mean over subsets of recall@1
on validation classes, and is asked once for the test classes: every subset, and missing rates on queries, gallery and
both. A run that is there is not run again, so the same command goes on after any stop. Rows go to
``benchmarks/tables/robustness_NAME.csv``, the summary beside it, the picture to ``robustness_NAME.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import robustness, train
from metrixkit.report.robustness_plot import robustness_plot
from metrixkit.retrieval import Robustness

HERE = Path(__file__).resolve().parent
FUSION = ["method=fusion", "model.branches=false"]
ROWS = {
    "fusion": FUSION,
    "GMC": [],
    "GMC + DMM": ["method.dmm.weight=0.03"],  # the release's ratio to NT-Xent, 1 to 1
    "fusion + DMM": [*FUSION, "method.dmm.weight=0.3"],
}
GLYPHS = ["data=glyphs_video_text", "data.split=characters", "evaluation.modalities=[image,outline,name]"]
DATA = {"omniglot": [], "glyphs": [*GLYPHS, "training.epochs=10", "evaluation.every=5"]}
RATES = "0,0.2,0.4,0.6,0.8,1"


def run(data: str, row: str, seed: int, runs: Path) -> pd.DataFrame:
    """Train and ask one setting with one seed; return its rows."""
    folder = runs / f"{data}-{row.replace(' ', '')}-seed={seed}"
    settings = [*DATA[data], *ROWS[row], f"seed={seed}", "training.tensorboard=false"]
    config = HERE.parent / "configs" / "omniglot_missing.yaml"
    ask = [str(folder), "--rates", RATES, "--seeds", "0,1"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        done = (folder / "results.json").exists()
        status = 0 if done else train.main([str(config), *settings, "--run", str(folder), "--resume"])
        status = status or robustness.main(ask)
    if status:
        raise SystemExit(f"{row}, seed {seed}: {told.getvalue()}")
    return read(folder / "robustness" / "rows.csv").assign(run=seed, row=row)


def main() -> None:
    """Fill one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/robustness"))
    options = parser.parse_args()
    path = HERE / "tables" / f"robustness_{options.data}.csv"
    found = read(path)
    for seed in range(options.seeds):
        for row in ROWS:
            if len(found) and ((found["row"] == row) & (found["run"] == seed)).any():
                continue
            rows = run(options.data, row, seed, options.runs.resolve())
            found = pd.concat([found, rows], ignore_index=True) if len(found) else rows
            found.to_csv(path.with_suffix(".part"), index=False)
            path.with_suffix(".part").replace(path)
            print(f"{row}, seed {seed}: done", flush=True)
            summarise(options.data, found, path)


def read(path: Path) -> pd.DataFrame:
    """Return the rows that are there."""
    if not path.exists():
        return pd.DataFrame()
    return pd.read_csv(path, keep_default_na=False, na_values={"rate": [""]})


def result_of(rows: pd.DataFrame) -> Robustness:
    """Return some rows as a result again."""
    modalities = tuple(name for name in rows["subset"].unique() if name and "+" not in name)
    return Robustness(rows, ("recall@1", "map@r"), modalities, {}, {})


def summarise(data: str, found: pd.DataFrame, path: Path) -> None:
    """Write means and deviations over seeds, differences in deviations, and the picture."""
    results = {row: result_of(found[found["row"] == row]) for row in ROWS if (found["row"] == row).any()}
    tables = {row: result.table().set_index("subset") for row, result in results.items()}
    subsets = [name for name in next(iter(tables.values())).index if name != "full"]
    heads = ["row", "n", *subsets, "mean of subsets", "area query", "area gallery", "area both"]
    lines = [
        f"Made by `python benchmarks/robustness.py {data}`; recall@1 in percent, mean ± standard deviation over seeds.",
        "Columns: only these modalities are there, on both sides. Area: mean height of the curve over missing rates 0",
        "to 1 (two draws a seed), relative to the value with everything there.",
        "",
        _line(heads),
        _line(["---"] * len(heads)),
    ]
    values = {row: by_seed(found[found["row"] == row], subsets) for row in results}
    for row, table in values.items():
        cells = [f"{v.mean():.{d}f}{f' ± {v.std(ddof=1):.{d}f}' if len(v) > 1 else ''}" for v, d in _columns(table)]
        lines.append(_line([row, str(len(table)), *cells]))
    lines += ["", "Differences, paired by seed: mean ± deviation (mean over deviation).", ""]
    lines += [_line(heads), _line(["---"] * len(heads))]
    for better, base in (("GMC", "fusion"), ("fusion + DMM", "fusion"), ("GMC + DMM", "GMC")):
        if better not in values or base not in values:
            continue
        gap = (values[better] - values[base]).dropna()
        if gap.empty:
            continue
        cells = []
        for v, d in _columns(gap):
            spread = v.std(ddof=1) if len(v) > 1 else float("nan")
            ratio = f" ± {spread:.{d}f} ({v.mean() / spread:+.1f})" if spread > 0 else ""
            cells.append(f"{v.mean():+.{d}f}{ratio}")
        lines.append(_line([f"{better} less {base}", str(len(gap)), *cells]))
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    robustness_plot(path.with_suffix(".png"), results, title=f"{data}: zero-shot retrieval with modalities missing")


def by_seed(rows: pd.DataFrame, subsets: list[str]) -> pd.DataFrame:
    """Return a row a seed: recall@1 of each subset and their mean in percent, then the areas."""
    found = {}
    for seed, part in rows.groupby("run"):
        recall = part[part["kind"] == "subset"].set_index("subset")["recall@1"]
        area = result_of(part).area("recall@1")
        cells = [100 * recall[name] for name in subsets]
        found[seed] = [*cells, float(np.mean(cells)), *(area[side] for side in ("query", "gallery", "both"))]
    return pd.DataFrame.from_dict(found, orient="index")


def _columns(table: pd.DataFrame) -> list[tuple[pd.Series, int]]:
    return [(table[name], 3 if name >= len(table.columns) - 3 else 1) for name in table.columns]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
