"""Scale and shift of every channel."""

import tensorflow as tf

from keras_cosmo.bijectors.affine_injector import AffineInjector


class ActivationNormalization(AffineInjector):
    """Scale and shift of every channel, as in Glow (Friedman & Hassan 2022, section 2.1).

    HIGlow has an `AffineInjector` in its place. ``inverse``, from maps x to latent variables, is
    ``exp(log_scale) x + shift``.

    Args:
        log_scale: ``(channels,)``.
        shift: ``(channels,)``.
        name: Name of the bijector.

    Example:
        >>> maps = tf.random.stateless_normal((8, 4, 4, 2), [1, 2], mean=5.0)
        >>> normalization = ActivationNormalization(*ActivationNormalization.starting_values(maps))
        >>> bool(abs(tf.reduce_mean(normalization.inverse(maps))) < 1e-5)
        True

    Reference:
        Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.1.
    """

    def __init__(self, log_scale, shift, name: str = "activation_normalization"):
        super().__init__(log_scale, shift, name=name)

    @staticmethod
    def starting_values(maps, per_channel: bool = True) -> tuple:
        """``log_scale`` and ``shift`` with which these maps become zero mean and unit variance, channel by channel.

        Args:
            maps: ``(batch, height, width, channels)``.
            per_channel: False for one mean and one variance over all channels, ``(1,)`` each.

        Raises:
            ValueError: If a channel of the maps is constant (outside of graphs).
        """
        mean, variance = tf.nn.moments(maps, [0, 1, 2] if per_channel else [0, 1, 2, 3])
        mean, variance = tf.reshape(mean, [-1]), tf.reshape(variance, [-1])
        if tf.executing_eagerly() and not bool(tf.reduce_all(variance > 0)):
            channels = tf.where(variance <= 0)[:, 0].numpy().tolist()
            raise ValueError(
                f"`maps`: expected channels that vary, but channels {channels} are constant over the "
                f"{maps.shape[0]} maps. Give more, or different, maps."
            )
        log_scale = -tf.math.log(variance) / 2
        return log_scale, -mean * tf.exp(log_scale)
