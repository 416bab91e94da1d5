"""Make several replicas compute what one process would compute with the whole batch."""

import keras
import tensorflow as tf

from keras_cosmo.training.batch_statistics import leaf_layers


def train_as_one(model, optimizers) -> None:
    """Change a model that was built under a strategy so that the batch of all replicas counts, not that of each.

    Keras adds up the gradients of all replicas, but three things it does for each replica by itself. After this call

    - batch normalisation takes mean and variance over the batch of all replicas;
    - dropout draws for the batch of all replicas and gives each its rows, where Keras would drop the same units in
      the examples of every replica;
    - optimizers clip the sum of the gradients, where Keras would clip the share of every replica before it adds.

    Args:
        model: Keras model; its layers are changed, the configuration that is saved with them is not looked at again.
        optimizers: Its optimizers.
    """
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras.layers.Dropout):
            layer.call = _for_all_rows(layer.call)
    for optimizer in optimizers:
        if optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue:
            _clip_sums(optimizer)


def _for_all_rows(dropout):
    """The dropout of this replica's rows, drawn with that of all the others' so that all have their own."""

    def call(inputs, training=False):
        context = tf.distribute.get_replica_context()
        if not training or context is None:
            return dropout(inputs, training=training)
        rows, number = tf.shape(inputs)[0], context.replica_id_in_sync_group
        count = rows * context.num_replicas_in_sync
        factors = dropout(tf.ones([count, *inputs.shape[1:]], inputs.dtype), training=True)
        return inputs * tf.reshape(factors[rows * number : rows * (number + 1)], tf.shape(inputs))

    return call


def _clip_sums(optimizer):
    """Add up gradients before they are clipped instead of after."""
    clip, add = optimizer._clip_gradients, optimizer._all_reduce_sum_gradients

    def clip_sums(gradients):
        return clip([gradient for gradient, _ in add([(gradient, None) for gradient in gradients])])

    optimizer._clip_gradients = clip_sums
    optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables
