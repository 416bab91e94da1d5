"""Train the conditional GAN of Moriwaki et al. (2020): one confused intensity map -> Halpha and [OIII].

    python apps/train_separation.py                         minutes on 2 cores, small maps of the embedded simulator
    python apps/train_separation.py --ensemble 5            five networks on different data, compared peak by peak
    python apps/train_separation.py --data pinocchio.h5     on haloes of PINOCCHIO (apps/convert_haloes.py)
    python apps/train_separation.py --preset paper          the size of the paper: 30,000 maps of 256 x 256, days

The same network without discriminators is trained first, into <out>-l1, and put into every table; --no-l1-baseline
leaves it out. --summary prints the network. All logic is in keras_cosmo/tasks/separation.py, separation_measures.py,
separation_runs.py and run.py.
"""

import sys

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.separation import SeparationTask

if __name__ == "__main__":
    sys.exit(main(SeparationTask()))
