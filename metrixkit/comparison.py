"""Many runs as one table: grouped over seeds, with means, deviations, and differences against a reference row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError, did_you_mean
from metrixkit.paired import Answers, Difference, paired_bootstrap, read_answers, why_not_paired
from metrixkit.records import Record, find_runs, group, labels, read_record
from metrixkit.report.text import format_change, lower_is_better

CLASSES = ("top1", "top5", "linear@1", "linear@5", "knn@1", "knn@5")  # what classifiers and probes are asked for
ALWAYS = ("map@r", "utilization")


@dataclass(frozen=True)
class Spread:
    """Numbers of several runs.

    Attributes:
        values: One a run.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def sd(self) -> float | None:
        """Their standard deviation (n - 1), None for a single run."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else None


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seeds only.

    Attributes:
        label: The settings in which the row differs from other rows.
        records: Its runs.
        metrics: Of the selected weights, by name.
        before: The same before training.
        seconds: Spent training; None where not recorded.
        differences: Shares of queries answered right (recall@k, topk, linear@k, knn@k) less those of the reference, by
            metric; empty for the reference itself.
        unpaired: Why there are none, or "".
    """

    label: str
    records: Sequence[Record]
    metrics: Mapping[str, Spread]
    before: Mapping[str, Spread]
    seconds: Spread | None
    differences: Mapping[str, Difference] = field(default_factory=dict)
    unpaired: str = ""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` shows.

    Attributes:
        rows: In order of appearance.
        metrics: Their columns.
        reference: Index of the row that the others are measured against.
        facts: What all rows share: data, split, protocol, queries.
        left_out: Folder and reason of each run that is not in a row.
        notes: What must be said plainly: lost against the start, lost against the reference, no interval.
    """

    rows: Sequence[Row]
    metrics: Sequence[str]
    reference: int
    facts: Mapping[str, Any]
    left_out: Sequence[tuple[Path, str]]
    notes: Sequence[str]


def compare(
    places: Sequence[str | Path],
    metrics: Sequence[str] | None = None,
    against: str | None = None,
    force: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare runs.

    Args:
        places: Run folders, or folders with runs anywhere below them.
        metrics: Names; None takes top-k, linear@k and knn@k where there are such, every recall@k, map@r, utilization.
        against: Label of the reference row, or a part that only one label has; None takes the first row.
        force: Also compare what is not comparable (other data, split, protocol or queries), or counts a run twice.
        seed: Of the bootstrap.

    Raises:
        InputError: No finished run, runs that are not comparable, an unknown metric or row, a file that is broken.
    """
    records: list[Record] = []
    left_out: list[tuple[Path, str]] = []
    for folder in find_runs(places):
        read = read_record(folder)
        if isinstance(read, Record):
            records.append(read)
        else:
            left_out.append((folder, read))
    if not records:
        raise InputError("no finished run: " + "; ".join(f"{folder}: {why}" for folder, why in left_out))
    answers = _all_answers(records)
    notes = _comparable(records, answers, force)
    groups = group(records)
    names = labels([members[0].config for members in groups])
    if len(groups) == 1:
        names = [re.sub(r"-seed=\d+", "", records[0].folder.resolve().name)]
    for label, members in zip(names, groups, strict=True):
        notes += _repeated(label, members, force)
    columns = _choose_metrics(records, metrics)
    rows = [_row(label, members, columns) for label, members in zip(names, groups, strict=True)]
    reference = _find(names, against)
    theirs = rows[reference]
    rows = [row if row is theirs else _against(row, theirs, columns, answers, seed) for row in rows]
    notes += _plainly(rows, columns, theirs)
    return Comparison(rows, columns, reference, _facts(records[0], answers), left_out, notes)


def _all_answers(records: Sequence[Record]) -> dict[Path, Answers | str]:
    """Return what each run answered, or why that is not known; equal lists of ids are kept once."""
    found: dict[Path, Answers | str] = {}
    shared: np.ndarray | None = None
    for record in records:
        try:
            answers = read_answers(record.folder / "predictions.npz")
        except InputError as error:
            found[record.folder] = str(error)
            continue
        if shared is None:
            shared = answers.ids
        same = np.array_equal(shared, answers.ids)
        found[record.folder] = replace(answers, ids=shared) if same else answers
    return found


def _facts(record: Record, answers: Mapping[Path, Answers | str]) -> dict[str, Any]:
    counts = record.results.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    facts = {key: record.results.get(key) for key in ("data", "split", "protocol")}
    facts |= {"distance": record.distance, **{key: counts.get(key) for key in ("queries", "gallery", "evaluated")}}
    return {key: value for key, value in facts.items() if value is not None}


def _comparable(records: Sequence[Record], answers: Mapping[Path, Answers | str], force: bool) -> list[str]:
    """Return what keeps the runs from being comparable, if that was asked for.

    Raises:
        InputError: There is something, and it was not.
    """
    first = records[0]
    facts, problems = _facts(first, answers), []
    for record in records[1:]:
        other = _facts(record, answers)
        changed = [
            f"{key} {facts.get(key)!r} and {other.get(key)!r}"
            for key in facts.keys() | other.keys()
            if facts.get(key) != other.get(key)
        ]
        one, two = answers[first.folder], answers[record.folder]
        if not changed and isinstance(one, Answers) and isinstance(two, Answers):
            changed = [why] if (why := why_not_paired([one, two])) else []
        if changed:
            problems.append(f"{first.folder} and {record.folder} are not comparable: {', '.join(sorted(changed))}")
    return _forced(problems, force)


def _repeated(label: str, members: Sequence[Record], force: bool) -> list[str]:
    seeds: dict[int, Record] = {}
    problems = []
    for record in members:
        earlier = seeds.setdefault(record.seed, record)
        if earlier is not record:
            problems.append(
                f"{earlier.folder} and {record.folder} have the same settings and seed {record.seed}: one run twice "
                "makes the deviation too small"
            )
    return _forced(problems, force)


def _forced(problems: Sequence[str], force: bool) -> list[str]:
    if problems and not force:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}. Leave runs out, or compare all the same with --force.")
    return list(problems)


def _choose_metrics(records: Sequence[Record], wanted: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys(name for record in records for name in record.metrics()))
    if not known:
        why = "" if records[0].results.get("judged", True) else ": it had no test split, so nothing was judged"
        raise InputError(f"{records[0].folder / 'results.json'} holds no metric{why}.")
    if not wanted:
        recalls = [n for n in known if n.startswith("recall@") and "/" not in n]
        classes = [n for n in CLASSES if n in known]
        return [*classes, *sorted(recalls, key=_cutoff), *(n for n in ALWAYS if n in known)] or known
    for name in wanted:
        if name not in known:
            raise InputError(f"--metrics: no run has {name!r}.{did_you_mean(name, known)}")
    return list(dict.fromkeys(wanted))


def _cutoff(name: str) -> int:
    """Return the k of "recall@k", or 0 for other metrics."""
    head, _, k = name.partition("@")
    return int(k) if head == "recall" and k.isdigit() else 0


def _row(label: str, members: Sequence[Record], columns: Sequence[str]) -> Row:
    def spreads(key: str) -> dict[str, Spread]:
        found = {name: tuple(m[name] for r in members if name in (m := r.metrics(key))) for name in columns}
        return {name: Spread(values) for name, values in found.items() if values}

    seconds = tuple(
        float(s["training"])
        for r in members
        if "training" in (s := r.results.get("seconds") or {})  # type: ignore[operator]
    )
    return Row(label, members, spreads("metrics"), spreads("before"), Spread(seconds) if seconds else None)


def _find(names: Sequence[str], against: str | None) -> int:
    if against is None:
        return 0
    if against in names:
        return names.index(against)
    fitting = [i for i, name in enumerate(names) if against in name]
    if len(fitting) != 1:
        how = f"{len(fitting)} rows are" if fitting else "no row is"
        raise InputError(f"--against: {how} called {against!r}. Rows: {'; '.join(names)}.")
    return fitting[0]


def _against(row: Row, reference: Row, columns: Sequence[str], answers: Mapping[Path, Answers | str], seed: int) -> Row:
    found = [answers[r.folder] for r in [*row.records, *reference.records]]
    read = [a for a in found if isinstance(a, Answers)]
    unpaired = next((a for a in found if isinstance(a, str)), "") or why_not_paired(read)
    ours, theirs = read[: len(row.records)], read[len(row.records) :]
    differences: dict[str, Difference] = {}
    for name in [] if unpaired else [c for c in columns if c in row.metrics and c in reference.metrics]:
        mine, other = ([right for a in side if (right := a.hits(name)) is not None] for side in (ours, theirs))
        if len(mine) < len(ours) or len(other) < len(theirs):
            continue  # no share of queries, or a run whose ranks were not kept
        difference = paired_bootstrap(mine, other, seed)
        # The predictions must be those of the numbers in the table, or the interval is of something else.
        if abs(difference.value - (row.metrics[name].mean - reference.metrics[name].mean)) > 1e-6:
            unpaired, differences = f"predictions.npz does not repeat the {name} of results.json", {}
            break
        differences[name] = difference
    return Row(row.label, row.records, row.metrics, row.before, row.seconds, differences, unpaired)


def _plainly(rows: Sequence[Row], columns: Sequence[str], reference: Row) -> list[str]:
    notes = []
    for row in rows:
        for name in columns[:1]:
            lower = lower_is_better(name)
            if lower is None or name not in row.before or name not in row.metrics:
                continue
            gained = row.metrics[name].mean - row.before[name].mean
            if (gained > 0) if lower else (gained < 0):
                change = format_change(name, gained)
                notes.append(f"{row.label}: training LOST, {name} {change} against the model before its first step")
        if row.unpaired:
            notes.append(f"{row.label}: no interval, {row.unpaired}")
        worse = [name for name, d in row.differences.items() if d.high < 0]
        if worse:
            notes.append(f"{row.label}: WORSE than {reference.label} in {', '.join(worse)}, the whole interval below 0")
    return notes
