"""Write the files that TensorFlow Serving is started with, for all models in a folder.

    python apps/serving_files.py                                      for a server on this machine
    python apps/serving_files.py --base-path /models                  for the official container
    python apps/serving_files.py --saved-models exports --keep 2      the last two versions of each model

Writes models.config, batching_parameters.txt and monitoring.config into the folder of the models, and prints a command
that starts the server with them. Exit status: 0 written, 1 failed with one line that says why, 2 wrong usage.
"""

import pathlib
import sys

from keras_cosmo.tasks.presets import Parser, fail

CONTAINER = "/models"


def main(argv=None) -> int:
    """Write and print; returns the exit status."""
    parser = Parser(prog="serving_files.py", description=__doc__)
    parser.add_argument(
        "--saved-models",
        type=pathlib.Path,
        default=pathlib.Path("saved_models"),
        help="folder of models [saved_models]",
    )
    parser.add_argument(
        "--base-path",
        metavar="PATH",
        help="where the server finds the folder: an absolute path or an address such as gs://... [the folder itself]",
    )
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="highest versions of each that are served [1]")
    parser.add_argument("--max-batch-size", type=int, default=64, metavar="ROWS", help="rows of a joined batch [64]")
    parser.add_argument("--batch-timeout", type=int, default=5000, metavar="US", help="wait for others, in us [5000]")
    parser.add_argument("--batch-threads", type=int, default=2, metavar="N", help="batches at the same time [2]")
    arguments = parser.parse_args(argv)
    from keras_cosmo.export.server_files import Batching, write_server_files

    try:
        batching = Batching(
            max_batch_size=arguments.max_batch_size,
            batch_timeout_micros=arguments.batch_timeout,
            num_batch_threads=arguments.batch_threads,
        )
        written = write_server_files(
            arguments.saved_models, arguments.base_path, keep=arguments.keep, batching=batching
        )
    except (ValueError, OSError) as error:
        return fail(" ".join(str(error).split()))
    print("\n".join(map(str, written)) + "\n")
    print(command(arguments.saved_models.resolve(), arguments.base_path))
    return 0


def command(folder: pathlib.Path, base_path: str | None) -> str:
    """How to start the server with the files."""
    from keras_cosmo.export.server_files import BATCHING, MODELS, MONITORING

    inside = CONTAINER if base_path == CONTAINER else str(folder)
    flags = [
        f"--model_config_file={inside}/{MODELS}",
        f"--monitoring_config_file={inside}/{MONITORING}",
    ]
    if inside == CONTAINER:
        start = ["docker run --rm -p 8500:8500 -p 8501:8501", f"-v '{folder}:{CONTAINER}:ro'", "tensorflow/serving"]
    else:
        start = ["tensorflow_model_server --port=8500 --rest_api_port=8501"]
    batching = f"--enable_batching --batching_parameters_file={inside}/{BATCHING}"
    return " \\\n    ".join([*start, *flags]) + f"\n\nTo join requests that wait, add {batching}"


if __name__ == "__main__":
    sys.exit(main())
