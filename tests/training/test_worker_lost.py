import pytest
import tensorflow as tf

from keras_cosmo.training.worker_lost import WorkerLost, worker_lost_as_such


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:3 is down"), "Worker 3 was lost while"),
        (tf.errors.AbortedError(None, None, "aborted"), "A worker was lost while training. Continue with the same"),
        (tf.errors.InternalError(None, None, "Connection reset by peer"), "A worker was lost"),
    ],
)
def test_a_lost_worker_is_said_as_such(error, message):
    with pytest.raises(WorkerLost, match=message) as raised, worker_lost_as_such("training"):
        raise error
    assert raised.value.exit_status == 75
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [tf.errors.InternalError(None, None, "cuDNN failed"), tf.errors.ResourceExhaustedError(None, None, "OOM")]
)
def test_other_errors_are_passed_on(error):
    with pytest.raises(type(error)), worker_lost_as_such("training"):
        raise error
