"""Train a network with the embedded simulator and put it, with a model card, among the models that are shipped.

    python apps/ship_model.py matter
    python apps/ship_model.py separation --width 8           all flags of apps/train_separation.py
    python apps/ship_model.py --to shipped matter            another folder than saved_models

A run that is there and finished is taken as it is; one that was stopped goes on. Writes saved_models/<name>/1 with
MODEL_CARD.md and card.json: data, split, metrics beside baselines, calibration, limits, licence, checksums, command.
Exit status: 0 written, 1 failed with one line that says why, 2 wrong usage; else that of the training.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys

from keras_cosmo.tasks.all_tasks import TASKS, task_named
from keras_cosmo.tasks.command_line import parser as training_parser
from keras_cosmo.tasks.command_line import prepare_process
from keras_cosmo.tasks.presets import Parser, fail
from keras_cosmo.tasks.settings import settings_from


def main(argv=None) -> int:
    """Train if need be, and ship; returns the exit status."""
    parser = Parser(prog="ship_model.py", description=__doc__)
    parser.add_argument(
        "--to",
        type=pathlib.Path,
        default=pathlib.Path("saved_models"),
        help="folder, whose version 1 is replaced [saved_models]",
    )
    parser.add_argument("task", choices=list(TASKS), help="which network")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of its training script")
    arguments = parser.parse_args(argv)
    prepare_process()
    task = task_named(arguments.task)
    try:
        given = vars(training_parser(task).parse_args(arguments.flags))
        given.pop("summary", None)
        settings = settings_from(task, given)
    except (ValueError, OSError) as error:
        return fail(str(error), 2)
    from keras_cosmo.tasks.shipped_model import check_may_be_shipped, ship

    try:
        # Before hours of training.
        check_may_be_shipped(settings.out, settings.data, settings.seed)
        if not (settings.out / "metrics.json").exists():
            status = train(task, settings, arguments.flags)
            if status:
                return status
        folder = ship(task, settings.out, settings.saved_models, arguments.to)
    except KeyboardInterrupt:
        return fail("stopped; the same command goes on.", 130)
    except (ValueError, OSError) as error:
        return fail(" ".join(str(error).split()))
    print(f"{folder / 'MODEL_CARD.md'}")
    return 0


def train(task, settings, flags) -> int:
    """Run the training script and add its processor time to what the run had before; returns its exit status."""
    from keras_cosmo.tasks.run import default_cache

    begun = (settings.out / "config.json").exists()
    script = pathlib.Path(__file__).with_name(f"train_{task.name}.py")
    resume = ["--resume"] if begun and "--resume" not in flags else []
    cache = settings.cache or default_cache()
    there = set(cache.glob("*.h5"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        return subprocess.run([sys.executable, str(script), *flags, *resume]).returncode
    finally:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        path = settings.out / "processor_time.json"
        if settings.out.is_dir():
            known = json.loads(path.read_text()) if path.exists() else {"seconds": 0.0, "simulated": False}
            known["seconds"] += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            known["simulated"] |= set(cache.glob("*.h5")) > there
            path.write_text(json.dumps(known) + "\n")


if __name__ == "__main__":
    sys.exit(main())
