import numpy as np

from keras_cosmo.bijectors.invertible_convolution import InvertibleConvolution, lu_inverse, lu_product


def factors(channels, seed=0, stack=()):
    generator = np.random.default_rng(seed)
    permutation = np.broadcast_to(np.eye(channels)[generator.permutation(channels)], (*stack, channels, channels))
    lower, upper = generator.normal(0, 0.5, (2, *stack, channels, channels))
    sign = generator.choice([-1.0, 1.0], (*stack, channels))
    return permutation, lower, upper, sign, generator.normal(0, 0.3, (*stack, channels))


def test_against_autodiff(check_bijector):
    values = factors(4)
    maps = np.random.default_rng(1).standard_normal((2, 2, 3, 4))
    latent, log_det = check_bijector(lambda: InvertibleConvolution(*values), maps, 3)
    permutation, lower, upper, sign, log_diagonal = values
    matrix = permutation @ (np.tril(lower, -1) + np.eye(4)) @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_diagonal)))
    np.testing.assert_allclose(latent, maps @ matrix)
    np.testing.assert_allclose(log_det, 6 * np.linalg.slogdet(matrix)[1])


def test_product_and_inverse_of_a_stack():
    values = factors(6, stack=(3,))
    product, inverse = lu_product(*values).numpy(), lu_inverse(*values).numpy()
    np.testing.assert_allclose(inverse, np.linalg.inv(product), rtol=1e-6, atol=1e-8)
    one = lu_product(*(value[1] for value in values)).numpy()
    np.testing.assert_allclose(product[1], one)
