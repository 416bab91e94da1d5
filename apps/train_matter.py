"""Train the U-Net of Villanueva-Domingo & Villaescusa-Navarro (2021): 21-cm map -> matter map.

    python apps/train_matter.py                                  minutes on 2 cores, on the embedded simulator, z = 15
    python apps/train_matter.py --redshifts 10                   at another redshift; several become input channels
    python apps/train_matter.py --data boxes.h5                  on boxes of 21cmFAST (apps/convert_coeval.py)
    python apps/train_matter.py --preset paper                   the size of the paper: 1000 boxes of 200^3 cells

--summary prints the network. All logic is in keras_cosmo/tasks/matter.py, coeval.py and run.py.
"""

import sys

from keras_cosmo.tasks.command_line import main
from keras_cosmo.tasks.matter import MatterTask

if __name__ == "__main__":
    sys.exit(main(MatterTask()))
