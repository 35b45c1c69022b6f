"""The sweep of experiments/bound_sweep.py, smaller."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def experiment():
    path = Path(__file__).parents[2] / "experiments" / "bound_sweep.py"
    spec = importlib.util.spec_from_file_location("bound_sweep", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_no_bound_is_violated(experiment):
    result = experiment.summary(experiment.sweep(4_000, seed=1))
    assert result["instances"] == 4_000
    assert result["violations"] == dict.fromkeys(("B1", "B2", "B3", "B5", "B4", "B6"), 0)
    assert all(len(quantiles) == 10 for quantiles in result["orders_below_paper"].values())
    for name in ("B1", "B2"):  # never above the paper's where both laws share that of Y
        assert np.min(result["orders_below_paper"][name]) >= -1e-12
        assert np.min(result["worst_cases"][name]) > 0.95
        assert np.max(result["worst_cases"][name]) <= 1 + 1e-9
    assert experiment.figure(result).axes
