"""Interventions on soft tokens and hidden states: pure edits, matched controls, and what they do to a decoder."""

from gmijax.interventions._ablate import ablate
from gmijax.interventions._controls import Controls, matched_controls
from gmijax.interventions._edits import add_noise, draw_partners, keep_only, project_out, swap_means
from gmijax.interventions._effects import Ablation, Contrast, Effect, RateChange, contrast
from gmijax.interventions._gradients import GradientProjection, gradient_projection
from gmijax.interventions._swaps import SwapEffect, swap_effect

__all__ = [
    "Ablation",
    "Contrast",
    "Controls",
    "Effect",
    "GradientProjection",
    "RateChange",
    "SwapEffect",
    "ablate",
    "add_noise",
    "contrast",
    "draw_partners",
    "gradient_projection",
    "keep_only",
    "matched_controls",
    "project_out",
    "swap_effect",
    "swap_means",
]
