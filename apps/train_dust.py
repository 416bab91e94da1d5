"""Train the U-Net of Zhang et al. (2019): velocity cube of the Galactic 21-cm line -> map of the dust.

    python apps/train_dust.py                              minutes on 2 cores, skies of the embedded simulator
    python apps/train_dust.py --train-area east            the repeat of appendix C: east to train, west to test
    python apps/train_dust.py --study 0 3 10 30 120        one network for each weight of the correlations, figure 6
    python apps/train_dust.py --data sky.h5 --preset paper on HI4PI and Planck maps (apps/prepare_sky.py)

apps/predict_sky.py makes a map of the whole sky with the network. --summary prints the network. All logic is in
keras_cosmo/tasks/dust.py, dust_measures.py, dust_study.py and run.py.
"""

import sys

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.dust import DustTask

if __name__ == "__main__":
    sys.exit(main(DustTask()))
