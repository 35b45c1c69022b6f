"""How strongly a decoder's score reacts to its input: slopes, Lipschitz constants and the Fisher pullback."""

from gmijax.sensitivity._certified import CertifiedConstant, certified_linear, certified_softmax
from gmijax.sensitivity._constants import LipschitzConstant, LipschitzIndex, lipschitz_index
from gmijax.sensitivity._fisher import (
    FisherEigenpairs,
    FisherPullback,
    FisherTrace,
    fisher_pullback,
    fisher_quadratic,
)
from gmijax.sensitivity._gradients import directional_derivatives, gradient_norms, gradients
from gmijax.sensitivity._mlp import certified_mlp
from gmijax.sensitivity._outer import OuterProductFisher, empirical_fisher, monte_carlo_fisher
from gmijax.sensitivity._search import SearchedConstant, searched_slope

__all__ = [
    "CertifiedConstant",
    "FisherEigenpairs",
    "FisherPullback",
    "FisherTrace",
    "LipschitzConstant",
    "LipschitzIndex",
    "OuterProductFisher",
    "SearchedConstant",
    "certified_linear",
    "certified_mlp",
    "certified_softmax",
    "directional_derivatives",
    "empirical_fisher",
    "fisher_pullback",
    "fisher_quadratic",
    "gradient_norms",
    "gradients",
    "lipschitz_index",
    "monte_carlo_fisher",
    "searched_slope",
]
