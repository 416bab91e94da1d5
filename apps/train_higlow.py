"""Train the conditional flow of Friedman & Hassan (2022): parameters -> HI maps, map -> posterior of the parameters.

    python apps/train_higlow.py                            minutes on 2 cores, boxes of the embedded simulator
    python apps/train_higlow.py --data camels.h5 --preset paper    on maps of CAMELS (apps/convert_camels.py)
    python apps/train_higlow.py --injector convolutional --final-block    as the public code has them

--summary prints the network. All logic is in keras_cosmo/tasks/higlow.py, higlow_measures.py, higlow_signatures.py and
run.py.
"""

import sys

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.higlow import HIGlowTask

if __name__ == "__main__":
    sys.exit(main(HIGlowTask()))
