"""The command line of ``apps/train_<task>.py``."""

import argparse
import logging
import os
import pathlib
import re
import sys

from keras_cosmo.tasks.presets import Parser, add_preset_flags, fail
from keras_cosmo.tasks.settings import PRECISIONS, WORKERS_FROM, RunSettings, settings_from

logger = logging.getLogger(__name__)


def main(task, argv=None) -> int:
    """Run a task from the command line.

    Returns:
        Exit status: 0 done, 1 failed with one line that says why, 2 wrong usage, 75 a worker was lost and --resume
        goes on, 130 stopped by Ctrl-C or SIGTERM.
    """
    prepare_process()
    try:
        arguments = vars(parser(task).parse_args(argv))
        summary = arguments.pop("summary", False)
        settings = settings_from(task, arguments, check=not summary)
    except (ValueError, OSError) as error:
        return fail(str(error), 2)

    def start():
        if summary:
            print_summary(task, settings)
            return 0
        from keras_cosmo.tasks.run import check_files

        check_files(task, settings)
        if settings.workers != 1:
            from keras_cosmo.tasks.workers import train_with_workers

            return train_with_workers(task, settings)
        task.run(settings, progress=True)
        return 0

    return attempt(start, settings)


def prepare_process() -> None:
    """Messages of this package to standard error, and none of TensorFlow's."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("keras_cosmo").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def attempt(action, settings: RunSettings) -> int:
    """Exit status of an action, after one line that says what went wrong if anything did."""
    try:
        return action()
    except KeyboardInterrupt as error:
        begun = (settings.out / "config.json").exists()
        hint = "Continue with the same command and --resume." if begun else "Nothing was trained yet."
        return fail(str(error) or f"stopped. {hint}", 130)
    except (ValueError, OSError, FloatingPointError, RuntimeError, ImportError) as error:
        logger.debug("Traceback", exc_info=True)
        return fail(str(error), getattr(error, "exit_status", 1))
    except Exception as error:
        # TensorFlow has exceptions of its own, which wrap ours; everything else is a defect and keeps its traceback.
        if not type(error).__module__.startswith("tensorflow"):
            raise
        return fail(innermost(str(error)))


def innermost(message: str) -> str:
    """The line of a TensorFlow error that speaks of the cause: ours, where it was raised in the data pipeline."""
    ours = re.search(r"\b(?:ValueError|OSError|FileNotFoundError): (.+)", message)
    if ours:
        return ours.group(1)
    line = message.strip().splitlines()[0]
    return f"{line} Is the disk full? Make room, then continue with --resume." if "space" in line else line


def as_flags(message: str, flags: dict[str, str]) -> str:
    """A message of the library in the words of a command line.

    Args:
        message: Of an error, which names arguments as Python has them.
        flags: Argument -> flag. Arguments with an underscore or a blank are replaced everywhere but in paths; others,
            which may be English words, only where a message names an argument: first of all, behind a colon, or after
            "give", "expected" and "the argument".

    Example:
        >>> as_flags("a.out: give box_size, or hubble_scan/b", {"box_size": "--box-size", "hubble": "--hubble"})
        'a.out: give --box-size, or hubble_scan/b'
    """
    message = re.sub(r"^[A-Z]\w+: (?=expected)", "", message)
    for name, flag in flags.items():
        place = (
            r"(?<![\w/.-])"
            if "_" in name or " " in name
            else r"(?:(?<=^)|(?<=: )|(?<=give )|(?<=expected )|(?<=argument ))"
        )
        message = re.sub(rf"{place}{re.escape(name)}(?![\w/-]|\.\w)", flag, message)
    return message.replace("the argument --", "--")


def parser(task) -> Parser:
    """Command line of ``apps/train_<task>.py``; flags that are not given leave no trace."""
    result = Parser(
        prog=f"train_{task.name}.py",
        description=f"{task.title}\n{task.paper.citation}",
        argument_default=argparse.SUPPRESS,
    )
    result.add_argument("--preset", choices=list(task.presets), help="sizes and recipe [quick]")
    result.add_argument(
        "--data",
        type=pathlib.Path,
        help="database file; without it the embedded simulator makes one",
    )
    result.add_argument("--out", type=pathlib.Path, help=f"run folder [runs/{task.name}-<preset>]")
    result.add_argument("--seed", type=int, help="seed of everything random [0]")
    result.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out after a stop or kill",
    )
    result.add_argument("--precision", choices=PRECISIONS, help="of the convolutions [float32]")
    result.add_argument("--deterministic", action="store_true", help="deterministic kernels, slower")
    result.add_argument(
        "--start-from",
        type=pathlib.Path,
        metavar="RUN",
        help="run folder whose network is the start",
    )
    result.add_argument(
        "--start-normalization",
        choices=("keep", "refit"),
        help="keep the normalisation of --start-from, or refit it on the new training part [keep]",
    )
    result.add_argument("--saved-models", type=pathlib.Path, help="folder for SavedModels [saved_models]")
    result.add_argument(
        "--cache",
        type=pathlib.Path,
        help="folder for embedded simulations [~/.cache/keras_cosmo]",
    )
    result.add_argument("--simulation-workers", type=int, help="processes that simulate [all cores]")
    result.add_argument("--checkpoint-seconds", type=float, help="seconds between checkpoints [30]")
    result.add_argument(
        "--workers",
        type=lambda text: int(text) if text.isdecimal() else text,
        metavar="N",
        help=f"processes of this machine that share every update, or {', '.join(WORKERS_FROM)} for several machines "
        "(docs/cluster.md) [1]",
    )
    result.add_argument("--worker-timeout", type=float, help="seconds to wait for all workers at the start [600]")
    result.add_argument(
        "--summary",
        action="store_true",
        help="print the network with its parameter counts and stop",
    )
    add_preset_flags(result, task.presets)
    return result


def print_summary(task, settings: RunSettings) -> None:
    """Print every network at the size of the data, or of the preset, with the number of its own weights."""
    from keras_cosmo.data.database import Database

    database = Database(settings.data) if settings.data else None
    networks = task.networks(task.build(settings.preset, database, None, settings.precision))
    for network in networks:
        network.summary()
    if len(networks) > 1:
        counts = {network.name: network.count_params() for network in networks}
        sys.stdout.write("Weights: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
        sys.stdout.write(f"; {sum(counts.values()):,} in all.\n")
