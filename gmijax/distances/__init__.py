"""Distances between laws of representations."""

from gmijax.distances._cka import cka
from gmijax.distances._discrepancy import energy, mmd2
from gmijax.distances._distance import Distance, known
from gmijax.distances._exact import diameter, transport, w1_exact, w_inf
from gmijax.distances._gaussian import gaussian_w2
from gmijax.distances._line import w1_line, w2_line, w_inf_line
from gmijax.distances._sinkhorn import sinkhorn, sinkhorn_divergence
from gmijax.distances._sliced import max_sliced_w1, sliced_w1
from gmijax.distances._transport import Plan
from gmijax.distances._w1 import w1

__all__ = [
    "Distance",
    "Plan",
    "cka",
    "diameter",
    "energy",
    "gaussian_w2",
    "known",
    "max_sliced_w1",
    "mmd2",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_w1",
    "transport",
    "w1",
    "w1_exact",
    "w1_line",
    "w2_line",
    "w_inf",
    "w_inf_line",
]
