"""gmijax: how much of what an encoder knows can a fixed decoder use.

Subpackages load on first use, so that `import gmijax` and `gmijax --help` stay fast.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmijax import (
        accessibility,
        bounds,
        checkpoints,
        datasets,
        distances,
        extraction,
        interventions,
        models,
        modes,
        preprocessing,
        probes,
        rates,
        scoring,
        sensitivity,
        stats,
        store,
        testing,
    )

__version__ = "0.1.0"

_ROOMS = (
    "accessibility",
    "bounds",
    "checkpoints",
    "datasets",
    "distances",
    "extraction",
    "interventions",
    "models",
    "modes",
    "preprocessing",
    "probes",
    "rates",
    "scoring",
    "sensitivity",
    "stats",
    "store",
    "testing",
)

__all__ = [
    "__version__",
    "accessibility",
    "bounds",
    "checkpoints",
    "datasets",
    "distances",
    "extraction",
    "interventions",
    "models",
    "modes",
    "preprocessing",
    "probes",
    "rates",
    "scoring",
    "sensitivity",
    "stats",
    "store",
    "testing",
]


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"gmijax.{name}")
    raise AttributeError(f"module 'gmijax' has no attribute {name!r}; its rooms are {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return sorted(__all__)
