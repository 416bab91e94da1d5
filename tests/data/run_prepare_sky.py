"""Preparation of a sky in a process of its own, to be killed: run_prepare_sky.py FILE INPUTS WHEN WORKERS.

WHEN: "channel" (killed in the middle of writing the third channel),
"assembly" (in the middle of the final file), "rename" (before the final file loses its other name), "slow" (the parent
kills).
"""

import os
import pathlib
import signal
import sys
import time

from keras_cosmo.data import sky_preparation


def kill_self(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    path, files, when, workers = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    stage = sky_preparation._Stage
    write = stage.write

    def killed_write(self, name, values):
        if name == 2:
            half = self.file(name)
            half.with_name(f"{half.stem}.partial{half.suffix}").write_bytes(b"x" * 5000)
            kill_self()
        write(self, name, values)

    def slow_progress(done, total):
        sys.stdout.write(f"{done}\n")
        sys.stdout.flush()
        if when == "slow":
            time.sleep(0.5 if done < 2 else 30.0)

    if when == "channel":
        stage.write = killed_write
    elif when == "assembly":
        sky_preparation.BLOCK_VALUES = 1000
        original, calls = sky_preparation.DatabaseWriter.write_part, []

        def write_part(*arguments):
            calls.append(arguments)
            original(*arguments)
            if len(calls) == 10:
                kill_self()

        sky_preparation.DatabaseWriter.write_part = write_part
    elif when == "rename":
        link = os.link

        def killed_link(source, target):
            link(source, target)
            if not str(target).endswith(".partial"):
                kill_self()

        os.link = killed_link
    sky_preparation.prepare_sky(
        path,
        cube=files / "cube.npy",
        cube_velocities=files / "velocities.txt",
        dust=files / "dust.fits",
        mask=files / "mask.fits",
        ordering="RING",
        coordinates="galactic",
        low_pass_ell=12.0,
        workers=workers,
        progress=slow_progress,
    )


if __name__ == "__main__":
    main()
