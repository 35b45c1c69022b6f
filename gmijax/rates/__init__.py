"""Rates of a mismatched decoder: GMI over inputs and messages, the LM rate, and what tells whether to trust them."""

from gmijax.rates import channels
from gmijax.rates._beside import RateCurve, ZeroTest, conditional_gmi_paper, gmi_curve, zero_test
from gmijax.rates._bootstrap import Bootstrap, gmi_bootstrap
from gmijax.rates._calibration import Calibration, fit_calibration
from gmijax.rates._finite import (
    ExactLMRate,
    ExactRate,
    conditional_gmi_paper_exact,
    curve_exact,
    gmi_exact,
    lm_rate_exact,
    mutual_information,
)
from gmijax.rates._gmi import gmi, gmi_blockwise
from gmijax.rates._labels import gmi_labels, lm_rate
from gmijax.rates._rate import Difference, Rate, SampledAlternatives, difference

__all__ = [
    "Bootstrap",
    "Calibration",
    "Difference",
    "ExactLMRate",
    "ExactRate",
    "Rate",
    "RateCurve",
    "SampledAlternatives",
    "ZeroTest",
    "channels",
    "conditional_gmi_paper",
    "conditional_gmi_paper_exact",
    "curve_exact",
    "difference",
    "fit_calibration",
    "gmi",
    "gmi_blockwise",
    "gmi_bootstrap",
    "gmi_curve",
    "gmi_exact",
    "gmi_labels",
    "lm_rate",
    "lm_rate_exact",
    "mutual_information",
    "zero_test",
]
