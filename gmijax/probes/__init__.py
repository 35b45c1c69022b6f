"""Linear probes of hidden states: what a linear reader finds, and how much of it is information."""

from gmijax.probes import splits
from gmijax.probes._evaluate import Chance, Estimate, ProbeResult, evaluate, retention
from gmijax.probes._fit import Probe, fit, log_probabilities, predict
from gmijax.probes._probe import BestLayer, best_layer, probe

__all__ = [
    "BestLayer",
    "Chance",
    "Estimate",
    "Probe",
    "ProbeResult",
    "best_layer",
    "evaluate",
    "fit",
    "log_probabilities",
    "predict",
    "probe",
    "retention",
    "splits",
]
