"""What `gmijax store info` says."""

from collections import Counter
from pathlib import Path

from gmijax import store
from gmijax.report import to_json


def describe(path: Path, as_json: bool) -> str:
    """A store in words, or as JSON."""
    opened = store.open(path)
    spec = opened.spec
    reasons = Counter(opened.failed.values())
    record = {
        "path": str(path),
        "model": spec.model,
        "pooling": spec.pooling,
        "dtype": spec.dtype,
        "checkpoint": spec.checkpoint,
        "config": spec.config,
        "prompt": spec.prompt,
        "preprocessing": spec.preprocessing,
        "hook_points": {name: list(opened.shape(name)) for name in opened.hook_points},
        "labels": list(opened.label_names),
        "samples": opened.samples,
        "with_states": len(opened),
        "failed": dict(opened.failed),
        "pending_chunks": list(opened.pending),
        "damaged_chunks": {str(chunk): reason for chunk, reason in opened.damaged.items()},
        "complete": opened.complete,
    }
    if as_json:
        return to_json(record)
    pending = "complete" if opened.complete else f"{len(opened.pending)} chunks pending"
    lines = [
        f"{path}: {len(opened)} of {opened.samples} samples have states, {len(opened.failed)} failed, {pending}",
        f"  model          {spec.model or 'not recorded'}",
        f"  pooling        {spec.pooling}, stored in {spec.dtype}",
        *(f"  {name:14s} {value}" for name, value in record.items() if name in _SHOWN and value),
        *(f"  {name:14s} {rows} x {width}" for name, (rows, width) in record["hook_points"].items()),
        f"  labels         {', '.join(opened.label_names) or 'none'}",
        *(f"  failed         {count}: {reason}" for reason, count in reasons.most_common(20)),
        *(f"  damaged        chunk {chunk}: {reason}" for chunk, reason in opened.damaged.items()),
    ]
    return "\n".join(lines) + "\n"


_SHOWN = ("checkpoint", "config", "prompt", "preprocessing")
