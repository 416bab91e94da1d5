import logging

import numpy as np
import pytest

from keras_cosmo.models.higlow import HIGlow
from keras_cosmo.training.inversion_monitor import InversionMonitor


def monitor_of(flow):
    monitor = InversionMonitor(maps=4)
    monitor.set_model(flow)
    return monitor


def flow():
    names, low, high = ("Omega_m", "sigma_8"), (0.1, 0.6), (0.5, 1.0)
    return HIGlow((8, 8), names, low, high, "none", blocks=2, steps=2, width=4, seed=0)


def test_error_of_a_sound_flow_is_rounding(caplog):
    logs = {"loss": 1.0}
    with caplog.at_level(logging.INFO):
        monitor_of(flow()).on_epoch_end(2, logs)
    assert 0 < logs["latent_inversion_error"] < 1e-4
    assert "Epoch 3: latent variables come back" in caplog.text
    own = [record for record in caplog.records if record.name.startswith("keras_cosmo")]
    assert not [record for record in own if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("log_diagonal", "finite"), [(6.0, True), (80.0, False)])
def test_a_flow_that_loses_its_digits_is_warned_of(caplog, log_diagonal, finite):
    model = flow()
    for block in model.glow_blocks:
        weight = next(weight for weight in block.weights if weight.name == "log_diagonal")
        # Large and small in turn: the volume stays, the digits do not.
        signs = np.resize([1.0, -1.0], weight.shape)
        weight.assign(log_diagonal * signs)
    logs = {}
    monitor_of(model).on_epoch_end(0, logs)
    assert logs["latent_inversion_error"] > 0.01
    assert np.isfinite(logs["latent_inversion_error"]) == finite
    assert "no longer belong together" in caplog.text


def test_number_of_maps_is_checked():
    with pytest.raises(ValueError, match="`maps`: expected at least 1, got 0"):
        InversionMonitor(maps=0)
