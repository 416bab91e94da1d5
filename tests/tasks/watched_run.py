"""``watched_run.py APP FLAGS``: an app that ends with the most memory of its own (RssAnon, bytes) that it ever had."""

import os
import pathlib
import runpy
import sys
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from keras_cosmo.statistics import spectra
from keras_cosmo.tasks import higlow_measures

# Statistics take up to 200 MiB, in batches of so many pixels, which few small maps do not fill and more would; so does
# the search for the nearest training maps among so many.
spectra._BATCH_PIXELS = 2**16
higlow_measures.NEAREST_TRAINING = 200


def anonymous() -> int:
    """Memory of this process without the pages of files."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) * 1024


def watch() -> None:
    """Look a hundred times a second."""
    global peak
    while not done.wait(0.01):
        peak = max(peak, anonymous())


peak, done = 0, threading.Event()
thread = threading.Thread(target=watch)
thread.start()
app, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(app, run_name="__main__")
except SystemExit as end:
    if end.code:
        raise
finally:
    done.set()
    thread.join()
sys.stdout.write(f"\npeak {peak}\n")
