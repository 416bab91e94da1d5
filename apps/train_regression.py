"""Train the network of Gillet et al. (2019): 21-cm light-cone image -> zeta, L_X, T_vir, E_0.

    python apps/train_regression.py                          minutes on 2 cores, on the embedded simulator
    python apps/train_regression.py --data cones.h5          on light-cones of 21cmFAST (apps/convert_lightcones.py)
    python apps/train_regression.py --preset paper           the paper's size: 10,000 light-cones, days on a few cores

--summary prints the network. All logic is in keras_cosmo/tasks/regression.py and keras_cosmo/tasks/run.py.
"""

import sys

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.regression import RegressionTask

if __name__ == "__main__":
    sys.exit(main(RegressionTask()))
