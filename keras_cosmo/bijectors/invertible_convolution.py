"""Invertible 1 x 1 convolution by its LU factors."""

import tensorflow as tf

from keras_cosmo.bijectors.joint_bijector import JointBijector


class InvertibleConvolution(JointBijector):
    """Every pixel's channels times one invertible matrix W = P L U (Friedman & Hassan 2022, section 2.1).

    P is a fixed permutation, L lower triangular with ones on its diagonal, U upper triangular with ``sign *
    exp(log_diagonal)`` on its diagonal, so that log |det W| is the sum of ``log_diagonal``. ``inverse``, from maps x
    to latent variables, is ``x W``.

    Args:
        permutation: P, ``(channels, channels)``.
        lower: Its part below the diagonal is that of L.
        upper: Its part above the diagonal is that of U.
        sign: +1 or -1, ``(channels,)``.
        log_diagonal: ``(channels,)``.
        name: Name of the bijector.

    Shape of maps and latent variables: ``(batch, height, width, channels)``.

    Example:
        >>> convolution = InvertibleConvolution(tf.eye(2), tf.zeros((2, 2)), tf.zeros((2, 2)), [1.0, 1.0], [0.0, 0.0])
        >>> convolution.inverse(tf.ones((1, 4, 4, 2))).shape
        TensorShape([1, 4, 4, 2])

    Reference:
        Kingma & Dhariwal 2018 (arXiv:1807.03039), section 3.2, equation 10.
    """

    def __init__(self, permutation, lower, upper, sign, log_diagonal, name: str = "invertible_convolution"):
        parameters = dict(locals())
        factors = (permutation, lower, upper, sign, log_diagonal)
        self.matrix, self.log_diagonal = lu_product(*factors), tf.convert_to_tensor(log_diagonal)
        self.inverse_matrix = lu_inverse(*factors)
        super().__init__(forward_min_event_ndims=3, dtype=self.matrix.dtype, name=name, parameters=parameters)

    def _joint_forward(self, x):
        return _multiply(x, self.inverse_matrix), -self._log_det(x)

    def _joint_inverse(self, y):
        return _multiply(y, self.matrix), self._log_det(y)

    def _log_det(self, maps):
        pixels = tf.cast(tf.shape(maps)[1] * tf.shape(maps)[2], maps.dtype)
        return tf.fill(tf.shape(maps)[:1], pixels * tf.reduce_sum(self.log_diagonal))


def lu_product(permutation, lower, upper, sign, log_diagonal):
    """W = P L U, ``(..., channels, channels)``, of factors with the same leading axes."""
    lower, upper = _triangles(lower, upper, sign, log_diagonal)
    return tf.matmul(permutation, tf.matmul(lower, upper))


def lu_inverse(permutation, lower, upper, sign, log_diagonal):
    """W^-1 = U^-1 L^-1 P^T of the same factors."""
    lower, upper = _triangles(lower, upper, sign, log_diagonal)
    transposed = tf.linalg.matrix_transpose(tf.convert_to_tensor(permutation))
    return tf.linalg.triangular_solve(upper, tf.linalg.triangular_solve(lower, transposed), lower=False)


def _triangles(lower, upper, sign, log_diagonal):
    log_diagonal = tf.convert_to_tensor(log_diagonal)
    # band_part keeps the diagonal, set_diag replaces it.
    lower = tf.linalg.set_diag(tf.linalg.band_part(lower, -1, 0), tf.ones_like(log_diagonal))
    upper = tf.linalg.set_diag(tf.linalg.band_part(upper, 0, -1), tf.convert_to_tensor(sign) * tf.exp(log_diagonal))
    return lower, upper


def _multiply(maps, matrix):
    # As one product of two matrices.
    return tf.reshape(tf.matmul(tf.reshape(maps, [-1, maps.shape[-1]]), matrix), tf.shape(maps))
