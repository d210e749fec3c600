"""What an evaluation with missing modalities hands back: by subset, against the rate, and in one number."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrixkit.errors import InputError, did_you_mean
from metrixkit.files import write_text
from metrixkit.retrieval.measures import LOWER_IS_BETTER
from metrixkit.spreadsheet import csv_text

PLAIN = ("mae", "pearson", *LOWER_IS_BETTER)  # not shares: no percent

KEYS = ("run", "kind", "subset", "side", "rate", "seed", "missing", "left_out")


@dataclass(frozen=True, eq=False)
class Robustness:
    """Metrics of one model or of several runs of it, under every mask.

    Attributes:
        rows: One row a mask: run (its name, "" for one), kind ("full": what the items have; "subset"; "rate"), subset,
            side ("query", "gallery" or "both"), rate (asked), seed, missing (share of modalities really missing on that
            side), left_out (items of which a subset leaves nothing, which are left out of that row), and the metrics.
        metrics: Their names, the headline first.
        modalities: In order.
        counts: Of items, and how many lack something by nature.
        definitions: Metric to a sentence, and "protocol".
    """

    rows: pd.DataFrame
    metrics: tuple[str, ...]
    modalities: tuple[str, ...]
    counts: dict[str, int]
    definitions: dict[str, str]

    def table(self) -> pd.DataFrame:
        """Return a row a subset: for each metric its mean and ``METRIC/deviation`` (n - 1), and n runs.

        The first row, "full", is that of all that the items have. A subset of one side alone says so, "image (query)";
        masks that are neither a subset nor drawn at a rate are "masks as given".
        """
        rows = self.rows[self.rows["kind"].isin(["subset", "full", "given"])]
        names = rows["subset"].where(rows["kind"] != "full", "full").where(rows["kind"] != "given", "masks as given")
        names += [f" ({side})" if side != "both" else "" for side in rows["side"]]
        return self._summary(rows.assign(subset=names), ["subset"])

    def curve(self, metric: str | None = None) -> pd.DataFrame:
        """Return side, rate, mean, deviation (over seeds and runs, n - 1) and n of a metric; the headline's by default.

        Raises:
            InputError: No such metric.
        """
        metric = self._known(metric)
        found = self._summary(self.rows[self.rows["kind"] == "rate"], ["side", "rate"])
        return found.rename(columns={metric: "mean", f"{metric}/deviation": "deviation"})[
            ["side", "rate", "mean", "deviation", "n"]
        ]

    def area(self, metric: str | None = None) -> dict[str, float]:
        """Return for each side the mean height of the curve over its rates, divided by the value with all modalities.

        1 means that nothing is lost. By the trapezoid rule from the least to the greatest rate, so that it depends on
        which rates were asked. Of errors (mae) more than 1 is a loss. NaN where the full value is 0.

        Raises:
            InputError: No such metric.
        """
        metric = self._known(metric)
        full = float(self.rows.loc[self.rows["kind"] == "full", metric].mean())
        found = {}
        for side, part in self.curve(metric).groupby("side", sort=False):
            rates, values = part["rate"].to_numpy(), part["mean"].to_numpy()
            span = rates[-1] - rates[0]
            height = float(np.trapezoid(values, rates) / span) if span > 0 else float(values.mean())
            found[str(side)] = height / full if full else float("nan")
        return found

    def areas_by_run(self, metric: str | None = None) -> dict[str, dict[str, float]]:
        """Return :meth:`area` of each run by itself, for deviations over runs."""
        return {str(run): replace(self, rows=rows).area(metric) for run, rows in self.rows.groupby("run", sort=False)}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and strings, for a JSON file."""
        return {
            "table": _plain(self.table()),
            "curves": {metric: _plain(self.curve(metric)) for metric in self.metrics},
            "areas": {metric: self.area(metric) for metric in self.metrics},
            "modalities": list(self.modalities),
            "counts": dict(self.counts),
            "definitions": dict(self.definitions),
            "rows": _plain(self.rows),
        }

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `rows` as CSV."""
        out = Path(path)
        write_text(out, csv_text(self.rows))
        return out

    def to_markdown(self) -> str:
        """Return the table of subsets, the headline's curves, and areas, as Markdown. Shares are in percent."""
        table = self.table()
        heads = ["observed", *(self._head(metric) for metric in self.metrics), "n"]
        lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
        for record in table.to_dict("records"):
            cells = [self._cell(metric, record[metric], record[f"{metric}/deviation"]) for metric in self.metrics]
            lines.append(_row([record["subset"], *cells, str(record["n"])]))
        metric, curve = self.metrics[0], self.curve()
        if len(curve):
            rates = sorted(set(curve["rate"]))
            lines += ["", _row([f"{self._head(metric)} at rate", *(f"{r:g}" for r in rates), "area / full"])]
            lines.append(_row(["---", *["---:"] * (len(rates) + 1)]))
            for side, part in curve.groupby("side", sort=False):
                at = part.set_index("rate")
                cells = [self._cell(metric, at["mean"][r], at["deviation"][r]) if r in at.index else "" for r in rates]
                lines.append(_row([str(side), *cells, f"{self.area(metric)[str(side)]:.3f}"]))
        return "\n".join(lines) + "\n"

    def _summary(self, rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
        groups = rows.groupby(by, sort=False)[list(self.metrics)]
        found = groups.mean()
        for metric in self.metrics:
            found[f"{metric}/deviation"] = groups.std(ddof=1)[metric]
        found["n"] = groups.size()
        ordered = found.reset_index()
        return ordered.sort_values("rate", kind="stable").reset_index(drop=True) if "rate" in by else ordered

    def _known(self, metric: str | None) -> str:
        if metric is not None and metric not in self.metrics:
            raise InputError(f"no metric {metric!r} was computed.{did_you_mean(metric, self.metrics)}")
        return self.metrics[0] if metric is None else metric

    def _head(self, metric: str) -> str:
        return metric if metric in PLAIN else f"{metric} %"

    def _cell(self, metric: str, value: float, deviation: float) -> str:
        scale, digits = (1, 3) if metric in PLAIN else (100, 1)
        spread = f" ± {scale * deviation:.{digits}f}" if deviation == deviation else ""
        return f"{scale * value:.{digits}f}{spread}"


def merge(results: Mapping[str, Robustness]) -> Robustness:
    """Return several runs as one result, each row under the name of its run.

    Args:
        results: Run to its result; all of the same modalities and metrics.

    Raises:
        InputError: None given, or results that do not belong together.
    """
    if not results:
        raise InputError("no results to merge.")
    first = next(iter(results.values()))
    for name, result in results.items():
        if (result.modalities, result.metrics) != (first.modalities, first.metrics):
            raise InputError(
                f"the result of {name!r} has modalities {list(result.modalities)} and metrics {list(result.metrics)}, "
                f"the first one {list(first.modalities)} and {list(first.metrics)}; they cannot stand in one table."
            )
    rows = pd.concat([result.rows.assign(run=name) for name, result in results.items()], ignore_index=True)
    return replace(first, rows=rows, counts={**first.counts, "runs": len(results)})


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(k): None if isinstance(v, float) and np.isnan(v) else v for k, v in record.items()}
        for record in table.to_dict("records")
    ]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
