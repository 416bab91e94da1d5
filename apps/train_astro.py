"""Train the parameter network of Villanueva-Domingo & Villaescusa-Navarro (2021): 21-cm map -> L_X, M_min, N_gamma.

    python apps/train_matter.py                                               first the U-Net
    python apps/train_astro.py --start-from runs/matter-quick                 its encoder, trained along
    python apps/train_astro.py --start-from runs/matter-quick --encoder all   frozen, trained along, from scratch
    python apps/train_astro.py --encoder scratch                              without any U-Net

It uses the data of the U-Net's run unless --data is given. --summary prints the network. All logic is in
keras_cosmo/tasks/astro.py, encoders.py, coeval.py and run.py.
"""

import sys

from keras_cosmo.tasks.astro import AstroTask
from keras_cosmo.tasks.command_line import main

if __name__ == "__main__":
    sys.exit(main(AstroTask()))
