import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "apps" / "serving_files.py"


def run(*flags):
    return subprocess.run([sys.executable, SCRIPT, *map(str, flags)], capture_output=True, text=True)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "saved_models"
    (folder / "dust" / "1").mkdir(parents=True)
    (folder / "dust" / "1" / "saved_model.pb").write_bytes(b"")
    return folder


def test_files_and_the_command_to_start_with(models):
    result = run("--saved-models", models, "--max-batch-size", 8)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"--model_config_file={models}/models.config" in result.stdout
    assert result.stdout.startswith(f"{models}/models.config\n")
    assert "tensorflow_model_server --port=8500 --rest_api_port=8501" in result.stdout
    assert "max_batch_size { value: 8 }" in (models / "batching_parameters.txt").read_text()


def test_for_the_container(models):
    result = run("--saved-models", models, "--base-path", "/models", "--keep", 2)
    assert f"-v '{models}:/models:ro'" in result.stdout
    assert "--model_config_file=/models/models.config" in result.stdout
    assert "num_versions: 2" in (models / "models.config").read_text()


def test_failures_are_one_line(models):
    for flags, message in (
        (["--saved-models", models / "dust"], "no model in it"),
        (["--saved-models", models, "--keep", 0], "`keep`: expected an integer"),
        (["--saved-models", models, "--max-batch-size", 0], "`max_batch_size`: expected an integer"),
    ):
        result = run(*flags)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
