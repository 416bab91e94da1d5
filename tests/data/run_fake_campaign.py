"""Campaign of the fake simulator in a process of its own, to be killed: run_fake_campaign.py FILE COUNT WORKERS WHEN.

WHEN: "never", "create" (killed while the file is laid out), "write" (in the middle of the maps of a simulation),
"flag" (after the maps, before the flag), "status" (all flags set), "rename" (before the final name), "slow" (one
simulation takes long; the parent kills).
"""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from fake_simulator import FakeSimulator

from keras_cosmo.data import campaign, database_writer


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_write(call, fraction):
    """Kill at the given call of pwrite, after a fraction of its bytes."""
    original, calls = os.pwrite, []

    def pwrite(descriptor, view, offset):
        calls.append(offset)
        if len(calls) == call:
            original(descriptor, bytes(view)[: int(len(view) * fraction)], offset)
            kill_self()
        return original(descriptor, view, offset)

    os.pwrite = pwrite


def main():
    path, count, workers, when = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # Each simulation is two fields and a flag: three writes.
    if when == "create":
        database_writer._reserve = lambda *arguments: kill_self()
    elif when == "write":
        kill_in_write(3 * 3 + 2, 0.5)
    elif when == "flag":
        kill_in_write(3 * 4, 0)
    elif when == "status":
        kill_in_write(3 * count + 1, 1)
    elif when == "rename":
        original = os.link

        def link(source, target):
            original(source, target)
            if not str(target).endswith(".partial"):
                kill_self()

        os.link = link

    def progress(done, total):
        say(done)

    simulator = FakeSimulator(delay=0.2 if when == "slow" else 0.0)
    try:
        campaign.run_campaign(simulator, path, count=count, seed=5, workers=workers, progress=progress)
    except KeyboardInterrupt as error:
        say(error)
        sys.exit(130)


if __name__ == "__main__":
    main()
