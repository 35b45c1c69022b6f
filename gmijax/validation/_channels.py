"""`gmijax validate --channels`: the same comparison where every rate is known, without a model."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmijax import bounds, distances, rates, sensitivity
from gmijax.rates import channels
from gmijax.validation._measure import estimate

ROWS = 1500
MEANS = np.array([-1.5, 0.0, 1.5])
PRIORS = np.array([0.4, 0.3, 0.3])


def known_channels() -> dict[str, channels.Channel]:
    """One of each kind, matched and mismatched."""
    return {
        "BSC 0.1 read as 0.1": channels.BinarySymmetric(0.1, 0.1),
        "BSC 0.1 read as 0.3": channels.BinarySymmetric(0.1, 0.3),
        "BSC 0.1 read as 0.6": channels.BinarySymmetric(0.1, 0.6),
        "Z-channel 0.3 read as BSC 0.1": channels.z_channel(0.3, 0.1),
        "Gaussian, SNR 1": channels.ScalarGaussian(1.0, 1.0, channels.Noise("gaussian", 1.0), 1.0, 1.0),
        "Gaussian, gain halved": channels.ScalarGaussian(1.0, 4.0, channels.Noise("gaussian", 1.0), 0.5, 1.0),
        "4-PAM 10 dB, variance 2.5 times": channels.Modulation(2, 10.0, variance_ratio_hat=2.5, quadrature=False),
        "labels, calibrated": channels.GaussianLabels(MEANS, PRIORS),
        "labels, temperature 3": channels.GaussianLabels(MEANS, PRIORS, temperature=3.0),
        "labels, one biased by 2": channels.GaussianLabels(MEANS, PRIORS, bias=np.array([0.0, 2.0, 0.0])),
    }


def run_channels(seed: int, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Estimates beside the closed forms, and the bounds on a label channel whose inputs are shifted.

    Args:
      seed: of the samples.
      progress: called with a stage's name, what is done and what there is.

    Returns:
      Plain values: `channels` (known and estimated rates) and `shifts` (measured change and bounds).
    """
    known = known_channels()
    records = []
    for k, (name, channel) in enumerate(known.items()):
        progress("channels", k, len(known))
        x, y = channel.sample(jax.random.fold_in(jax.random.key(seed), k), ROWS)
        scores = np.asarray(channel.score_matrix(jnp.asarray(np.asarray(x)), jnp.asarray(np.asarray(y))), np.float32)
        rate, truth = rates.gmi(scores), channel.rates()
        record = estimate(rate.value, rate.standard_error, scale=rate.scale)
        records.append(
            {
                "channel": name,
                "known": {
                    "mutual_information": truth.mutual_information,
                    "lm_rate": truth.lm_rate,
                    "gmi_inputs": truth.gmi,
                    "scale": truth.gmi_scale,
                    "gmi_messages": truth.gmi_messages,
                },
                "gmi_inputs": record,
                "covered": bool(record["lower"] <= max(truth.gmi, 0) <= record["upper"]),
            }
        )
    progress("channels", len(known), len(known))
    return {"channels": records, "shifts": _shifts(progress), "rows": ROWS, "seed": seed}


def _shifts(progress: Callable[[str, int, int], None]) -> list[dict[str, Any]]:
    """A calibrated label decoder whose inputs are all moved by d: L, W1 and the change are known exactly."""
    text = channels.GaussianLabels(MEANS, PRIORS)
    before = text.rates()
    # log softmax of logits that are linear in z: the slope is m_k less a mean of the m's, at most their range.
    slope = sensitivity.LipschitzConstant(float(np.ptp(MEANS)), "certified", "z")
    records, one, steps = [], np.ones(1), (0.1, 0.3, 0.6, 1.0, 1.5)
    for k, step in enumerate(steps):
        progress("shifts", k, len(steps))
        modal = channels.GaussianLabels(MEANS + step, PRIORS, means_hat=MEANS)
        after = modal.rates()
        largest = max(before.gmi_messages_scale, after.gmi_messages_scale)
        moved = distances.known(step, given="(c, y)", space="z")
        bound = bounds.messages(largest, slope, moved)
        at_one = float(modal.curve(one, "messages")[0] - text.curve(one, "messages")[0])
        records.append(
            {
                "shift": step,
                "change_gmi_messages": after.gmi_messages - before.gmi_messages,
                "change_lm_rate": after.lm_rate - before.lm_rate,
                "change_gmi_inputs": after.gmi - before.gmi,
                "change_messages_at_one": at_one,
                "scale": largest,
                "b1": float(bound.value),
                "entropy": float(-(PRIORS * np.log(PRIORS)).sum()),
                "holds": bool(abs(after.gmi_messages - before.gmi_messages) <= float(bound.value) + 1e-9),
            }
        )
    progress("shifts", len(steps), len(steps))
    assert all(math.isfinite(record["b1"]) for record in records)
    return records
