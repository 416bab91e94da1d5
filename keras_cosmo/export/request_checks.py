"""What a SavedModel refuses, and what it answers to maps that are not finite.

Servers hold a request to the type of the signature, not to its shape: a transposed image would be read in another order
and answered with numbers. Max pooling and ReLU take the larger of NaN and a number to be the number, so that a network
answers even to a map of NaN alone. So both are looked at in the graph.
"""

import tensorflow as tf


def check_request(inputs: dict, specs: dict) -> tuple[dict, tf.Tensor]:
    """The inputs, in a graph that fails where they do not have the shape of the signature; and which rows are finite.

    Args:
        inputs: Input name -> tensor, the batch first.
        specs: Input name -> ``tf.TensorSpec``.

    Returns:
        The same inputs; and bool ``(batch,)``, False where an input of a row holds NaN or infinity.
    """
    shaped = {name: _of_shape(inputs[name], spec, name) for name, spec in specs.items()}
    sizes = tf.stack([tf.shape(tensor)[0] for tensor in shaped.values()])
    names = ", ".join(specs)
    few = f"{names}: expected at least one row in the batch (the first axis); rows received"
    differ = f"{names}: expected the same number of rows (the first axis) in every input; rows received"
    checks = [tf.debugging.Assert(tf.reduce_all(sizes > 0), [few, sizes])]
    if len(specs) > 1:
        checks.append(tf.debugging.Assert(tf.reduce_all(tf.equal(sizes, sizes[0])), [differ, sizes]))
    with tf.control_dependencies(checks):
        checked = {name: tf.identity(tensor) for name, tensor in shaped.items()}
    finite = tf.fill(sizes[:1], True)
    for tensor in checked.values():
        if tensor.dtype.is_floating:
            finite &= tf.reduce_all(tf.math.is_finite(tensor), axis=list(range(1, tensor.shape.rank)))
    return checked, finite


def blank_rows(output: tf.Tensor, finite: tf.Tensor) -> tf.Tensor:
    """The output with NaN in all rows whose inputs are not finite; integers and strings as they are.

    Args:
        output: ``(batch, ...)``.
        finite: bool ``(batch,)``.
    """
    if not output.dtype.is_floating or not output.shape.rank:
        return output
    rows = tf.reshape(finite, [-1] + [1] * (output.shape.rank - 1))
    return tf.where(rows, output, tf.constant(float("nan"), output.dtype))


def _of_shape(tensor, spec, name):
    # The kernel names its input in the error, which so says which one is wrong.
    return tf.raw_ops.EnsureShape(input=tf.identity(tensor, name=name), shape=spec.shape)
