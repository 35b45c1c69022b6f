"""Distances between laws of representations."""

from gmijax.distances._exact import W1, diameter, w1, w_inf
from gmijax.distances._line import w1_line, w2_line, w_inf_line

__all__ = ["W1", "diameter", "w1", "w1_line", "w2_line", "w_inf", "w_inf_line"]
