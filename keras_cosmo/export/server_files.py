"""The files that TensorFlow Serving is started with: which models, how requests are joined, what is monitored.

Formats: tensorflow_serving/config/model_server_config.proto and monitoring_config.proto, and
servables/tensorflow/session_bundle_config.proto, as text.
"""

import dataclasses
import pathlib
import re

from keras_cosmo.export.versions import versions
from keras_cosmo.files import written_aside

MODELS, BATCHING, MONITORING = "models.config", "batching_parameters.txt", "monitoring.config"
METRICS_PATH = "/monitoring/prometheus/metrics"
# Characters that the REST paths of the server take for the end of a name.
NAME = re.compile(r"[^/:\s\"\\]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """How the server joins requests that wait; used only with ``--enable_batching``.

    Args:
        max_batch_size: Rows of one joined batch; a request with more rows is refused.
        batch_timeout_micros: How long a request waits for others, in microseconds.
        max_enqueued_batches: Batches that wait before requests are refused.
        num_batch_threads: Batches that are computed at the same time.

    Raises:
        ValueError: For a number that is negative, or zero where one at least is needed.

    Example:
        >>> Batching(max_batch_size=16).text().splitlines()[0]
        'max_batch_size { value: 16 }'
    """

    max_batch_size: int = 64
    batch_timeout_micros: int = 5000
    max_enqueued_batches: int = 100
    num_batch_threads: int = 2

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name == "batch_timeout_micros" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}`: expected an integer of at least {least}, got {value!r}.")

    def text(self) -> str:
        """The file, as text of a ``BatchingParameters`` message."""
        return "".join(f"{name} {{ value: {value} }}\n" for name, value in dataclasses.asdict(self).items())


def write_server_files(
    folder, base_path: str | None = None, *, keep: int = 1, batching: Batching | None = None
) -> list[pathlib.Path]:
    """Write ``models.config``, ``batching_parameters.txt`` and ``monitoring.config`` for all models in a folder.

    Each replaces an older one as a whole, so that a server that reads ``models.config`` again and again
    (``--model_config_file_poll_wait_seconds``) never sees half of it.

    Args:
        folder: ``<base>``, which holds ``<name>/<version>/saved_model.pb``. Names that begin with a dot, and folders
            without any version, are passed over.
        base_path: Where the server finds that folder: an absolute path, such as "/models" in a container, or an
            address with a scheme (gs://...). Defaults to the absolute path of ``folder``.
        keep: How many of the highest versions of each model are served. More than one allows requests to name the
            version before the last.
        batching: Defaults to ``Batching()``.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no model.
        ValueError: If a name cannot be part of an address, ``base_path`` is not absolute, or ``keep`` is not positive.
        OSError: If a file cannot be written.

    Example:
        >>> write_server_files("saved_models", base_path="/models", keep=2)  # doctest: +SKIP
    """
    folder = pathlib.Path(folder)
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"`keep`: expected an integer of at least 1, got {keep!r}.")
    base_path = str(folder.resolve()) if base_path is None else base_path
    if not base_path.startswith("/") and "://" not in base_path:
        raise ValueError(
            f"`base_path`: expected an absolute path or an address such as gs://bucket/models, as the server takes no "
            f"other, got {base_path!r}. In the official container it is /models."
        )
    texts = {
        MODELS: models_config(served_names(folder), base_path, keep),
        BATCHING: (batching or Batching()).text(),
        MONITORING: f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n',
    }
    for name, text in texts.items():
        with written_aside(folder / name, "do it again") as aside:
            aside.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def served_names(folder) -> list[str]:
    """Names of the models in a folder that have a version, sorted.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no model.
        ValueError: If a name cannot be part of an address.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder. Give the one that a training run writes, saved_models.")
    names = sorted(
        path.name
        for path in folder.iterdir()
        if not path.name.startswith(".") and any((each / "saved_model.pb").is_file() for each in versions(path))
    )
    if not names:
        raise FileNotFoundError(
            f"{folder}: no model in it, expected <name>/<version>/saved_model.pb. Train one first, or give the folder "
            "above the names."
        )
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{folder / name}: this name cannot be part of an address: it holds a space, a quote, a colon or a "
                "backslash. Rename the folder."
            )
    return names


def models_config(names, base_path: str, keep: int = 1) -> str:
    """Text of a ``ModelServerConfig`` message for these models.

    Args:
        names: Names of the models.
        base_path: Folder of the models, as the server sees it.
        keep: How many of the highest versions are served.
    """
    base = base_path.rstrip("/").replace("\\", "\\\\").replace('"', '\\"')
    entries = "".join(
        f"  config {{\n"
        f'    name: "{name}"\n'
        f'    base_path: "{base}/{name}"\n'
        f'    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ latest {{ num_versions: {keep} }} }}\n"
        f"  }}\n"
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"
