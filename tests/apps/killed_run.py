"""``killed_run.py APP STEP FLAGS``: an app that kills itself after update STEP, before that one is in a checkpoint."""

import os
import runpy
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from keras_cosmo.training.trainer import Trainer

app, step = sys.argv[1], int(sys.argv[2])
save = Trainer._save


def lethal(self, checkpoint, done):
    """Save as usual, but for that step."""
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, checkpoint, done)


Trainer._save = lethal
sys.argv = [app, *sys.argv[3:]]
runpy.run_path(app, run_name="__main__")
