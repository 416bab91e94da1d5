import json

import keras
import pytest

from keras_cosmo.training import device_probe


def test_every_step_is_told(monkeypatch, capsys):
    monkeypatch.setattr(device_probe, "CONVOLUTION", (1, 8, 2, 3))
    assert device_probe.main() == 0
    steps = {line["step"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(steps) == ["tensorflow", "keras", "tensorflow_probability", "devices", "convolution"]
    assert steps["keras"]["backend"] == "tensorflow"
    assert steps["devices"]["gpus"] == []
    # 2 operations for each of 8 x 8 pixels, 2 x 2 channels and 3 x 3 weights.
    operations = 1e9 * steps["convolution"]["gflops"] * steps["convolution"]["seconds"]
    assert operations == pytest.approx(2 * 64 * 4 * 9)


def test_another_backend_ends_it(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert [step["step"] for step in device_probe.steps()] == ["tensorflow", "keras"]
