"""Linear probes of hidden states: what a linear reader finds, and how much of it is information."""

from gmijax.probes import splits
from gmijax.probes._cross_fit import PENALTIES, CrossFit, cross_fit
from gmijax.probes._evaluate import Chance, Estimate, ProbeResult, evaluate, retention
from gmijax.probes._fit import Probe, fit, log_probabilities, predict
from gmijax.probes._probe import BestLayer, best_layer, probe

__all__ = [
    "PENALTIES",
    "BestLayer",
    "Chance",
    "CrossFit",
    "Estimate",
    "Probe",
    "ProbeResult",
    "best_layer",
    "cross_fit",
    "evaluate",
    "fit",
    "log_probabilities",
    "predict",
    "probe",
    "retention",
    "splits",
]
