"""The audit of the slopes, diameters and distances that arXiv:2602.23136 reports in its table 8.

Run: python experiments/paper_audit.py REPORTED.json [--out DIR]
REPORTED.json holds rows of model, dataset, L_mean, L_p95, D, W1 and L_times_W1 under "table8_sensitivity_and_distance".
Writes paper_audit.md and paper_audit.json, for L as the mean and as the 95th percentile of the gradient norms.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from gmijax import bounds, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reported", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/paper_audit"))
    options = parser.parse_args()
    reported = json.loads(options.reported.read_text(encoding="utf-8"))
    audits = {slope: bounds.audit(reported, slope=slope) for slope in ("L_mean", "L_p95")}
    sections = ["# What table 8 says of itself", *(f"## L as {slope}\n\n{a.markdown()}" for slope, a in audits.items())]
    text = "\n\n".join(sections)
    report.write_text(options.out / "paper_audit.md", text)
    report.write_json(
        options.out / "paper_audit.json",
        {slope: [dataclasses.asdict(row) for row in a.rows] for slope, a in audits.items()},
    )
    print(text)


if __name__ == "__main__":
    main()
