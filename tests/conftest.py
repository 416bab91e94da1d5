"""Settings that every test needs before TensorFlow is imported."""

import logging
import os
import pathlib
import signal
import sys

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Workers of pytest-xdist share the processor: threads of theirs would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, "1")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

# A job started in the background ignores Ctrl-C and hands that on to the processes it starts; the tests of Ctrl-C
# need the normal behaviour.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_package():
    """Every test begins with the usual level of messages: the apps' entry points, in fixtures too, raise it."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("keras_cosmo").setLevel(logging.NOTSET)
