"""Tables of an ablation: metrics of each variant over its seeds, and gains over the first variant."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .runs import Metrics, Run
from .variants import Ablation

Finished = Mapping[str, Mapping[int, Metrics]]  # variant -> seed -> metrics
Columns = dict[str, dict[int, float]]  # column title -> seed -> percent


def write_tables(ablation: Ablation, runs: Sequence[Run], output: str | Path, settings: Mapping[str, Any]) -> str:
    """Write table.md and results.json with the results of the finished runs.

    Args:
        output: folder of the files.
        settings: of the ablation, to write into results.json with its results.
    Returns: the text of table.md.
    """
    finished: dict[str, dict[int, Metrics]] = {}
    for run in runs:
        if metrics := run.metrics():
            finished.setdefault(run.variant, {})[run.seed] = metrics
    table = format_tables(ablation, finished)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    seconds = {
        str(run.folder): json.loads(run.record.read_text(encoding="utf-8"))["seconds"]
        for run in runs
        if run.metrics() is not None
    }
    content = {
        **settings,
        "metrics": finished,
        "summary": {name: {title: summarize(values) for title, values in columns_of(ablation, name, of_seeds).items()}
                    for name, of_seeds in finished.items()},
        "seconds": seconds,
    }  # fmt: skip
    (output / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return table


def columns_of(ablation: Ablation, variant: str, of_seeds: Mapping[int, Metrics]) -> Columns:
    """The metrics of one variant in the columns of the table; seeds without the metric are left out."""
    return {
        title: {
            seed: 100 * metrics[task][metric] for seed, metrics in of_seeds.items() if metric in metrics.get(task, {})
        }
        for title, (task, metric) in {**ablation.metrics, **ablation.variants[variant].metrics}.items()
    }


def summarize(values: Mapping[int, float]) -> dict[str, float]:
    """Mean over the seeds and, if there are several, their standard deviation."""
    summary = {"mean": statistics.fmean(values.values())} if values else {}
    if len(values) > 1:
        summary["spread"] = statistics.stdev(values.values())
    return summary


def format_tables(ablation: Ablation, finished: Finished) -> str:
    """Markdown tables: metrics of every variant and, if the first one is finished, the gains over it by seed."""
    columns = {
        name: columns_of(ablation, name, finished[name]) for name in ablation.variants if name in finished
    }  # in the order of the table
    text = ["In percent, mean ± standard deviation over seeds.", "", *_table(ablation, columns, finished)]
    first = next(iter(ablation.variants))
    if first in columns:
        gains = {
            name: {
                title: {seed: value - columns[first][title][seed]
                        for seed, value in values.items() if seed in columns[first][title]}
                for title, values in of_variant.items()
            }
            for name, of_variant in columns.items()
            if name != first
        }  # fmt: skip
        text += ["", f"Gains over `{first}` with the same seed.", "", *_table(ablation, gains, finished, sign="+")]
    return "\n".join(text)


def _table(ablation: Ablation, columns: Mapping[str, Columns], finished: Finished, sign: str = "") -> list[str]:
    titles = list(ablation.metrics)
    rows = [["variant", "seeds", *titles], ["---", *["---:"] * (len(titles) + 1)]]
    for name, of_variant in columns.items():
        rows.append([name, str(len(finished[name])), *(_cell(of_variant[title], sign) for title in titles)])
    return [f"| {' | '.join(row)} |" for row in rows]


def _cell(values: Mapping[int, float], sign: str) -> str:
    summary = summarize(values)
    if not summary:
        return "-"
    mean = f"{summary['mean']:{sign}.1f}"
    return f"{mean} ± {summary['spread']:.1f}" if "spread" in summary else mean
