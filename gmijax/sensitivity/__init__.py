"""How strongly a decoder's score reacts to its input."""

from gmijax.sensitivity._gradients import LipschitzConstant, LipschitzIndex, gradient_norms, lipschitz_index

__all__ = ["LipschitzConstant", "LipschitzIndex", "gradient_norms", "lipschitz_index"]
