"""Runs a validation with a progress bar and writes what people read."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gmijax import report
from gmijax.validation._figure import channel_figure, sweep_figure
from gmijax.validation._settings import Settings
from gmijax.validation._tables import channel_rows, sweep_rows


def main(settings: Settings, *, channels: bool, out: Path, as_json: bool) -> None:
    """Runs, writes `validate.json`, `.md`, `.svg` and `.png` under `out`, and prints the table or the JSON."""
    errors = Console(stderr=True)
    start = time.perf_counter()
    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    ) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
                if not errors.is_terminal:
                    errors.print(f"{stage} ...", highlight=False)
            bars.update(tasks[stage], completed=done, total=total)

        if channels:  # imported here: the channels need no model, and models take seconds to import
            from gmijax.validation._channels import run_channels

            result = run_channels(settings.seed, progress)
        else:
            from gmijax.validation._sweep import run

            result = run(settings, progress)
    result["seconds"] = round(time.perf_counter() - start, 1)
    tables = channel_rows(result) if channels else sweep_rows(result)
    figure = channel_figure(result) if channels else sweep_figure(result)
    stem = out / ("channels" if channels else "validate")
    report.publish(result, tables, figure, stem, as_json=as_json, closing=f"{result['seconds']} s; ")
