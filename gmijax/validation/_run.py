"""Runs a validation with a progress bar and writes what people read."""

import time
from pathlib import Path

from gmijax import report
from gmijax.validation._figure import channel_figure, sweep_figure
from gmijax.validation._settings import Settings
from gmijax.validation._tables import channel_rows, sweep_rows


def main(settings: Settings, *, channels: bool, out: Path, as_json: bool) -> None:
    """Runs, writes `validate.json`, `.md`, `.svg` and `.png` under `out`, and prints the table or the JSON."""
    start = time.perf_counter()
    with report.progress_bars() as progress:
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
