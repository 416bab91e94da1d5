"""A flow as a distribution of TensorFlow Probability."""

import tensorflow as tf
import tensorflow_probability as tfp


def flow_distribution(bijector, batch, latent_size: int, temperature=1.0, dtype=tf.float32):
    """Distribution of the maps that a bijector makes of independent normal latent variables.

    Args:
        bijector: From latent vectors ``(..., latent_size)`` to maps.
        batch: Number of distributions, one per row of the condition; an integer or a scalar tensor.
        latent_size: Number of latent variables.
        temperature: Standard deviation of the latent variables. Defaults to 1; below it, samples lie closer to the
            most probable ones.
        dtype: Of the latent variables. Defaults to float32.

    Returns:
        ``tfp.distributions.TransformedDistribution`` with batch shape ``(batch,)``.

    Example:
        >>> distribution = flow_distribution(tfp.bijectors.Exp(), 3, 4)
        >>> distribution.sample(seed=[1, 2]).shape
        TensorShape([3, 4])
    """
    mean = tf.zeros(tf.stack([tf.convert_to_tensor(batch), latent_size]), dtype)
    mean = tf.ensure_shape(mean, [None, latent_size])
    latent = tfp.distributions.Independent(tfp.distributions.Normal(mean, tf.cast(temperature, dtype)), 1)
    return tfp.distributions.TransformedDistribution(latent, bijector)


def with_transform(transform, bijector):
    """The bijector from latent vectors to the units of a flow, and behind it the one to physical maps."""
    return tfp.bijectors.Chain([transform, bijector])
