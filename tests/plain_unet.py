"""The networks of Villanueva-Domingo & Villaescusa-Navarro (2021) in plain NumPy, as the paper and PyTorch word them.

An independent reference for `MatterUNet` and `AstroNet`: float64, loops over filter cells, arrays as PyTorch has
them, (channels, height, width), kernels (out, in, height, width) and, transposed, (in, out, height, width).
"""

import numpy as np

EPSILON = 1e-5


class Weights:
    """Random weights by layer name, drawn when first asked for; `into` copies them into a Keras model."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.arrays = {}

    def convolution(self, name, inputs, outputs, size=3):
        kernel = self.generator.normal(0, np.sqrt(2 / inputs) / size, (outputs, inputs, size, size))
        return self._keep(name, kernel, self.generator.normal(0, 0.3, outputs))

    def transposed(self, name, inputs, outputs, size=3):
        kernel = self.generator.normal(0, np.sqrt(4 / inputs) / size, (inputs, outputs, size, size))
        return self._keep(name, kernel, self.generator.normal(0, 0.3, outputs))

    def dense(self, name, inputs, outputs):
        kernel = self.generator.normal(0, 1 / np.sqrt(inputs), (outputs, inputs))
        return self._keep(name, kernel, self.generator.normal(0, 0.3, outputs))

    def batch_normalization(self, name, channels):
        """Scale, offset, running mean, running variance."""
        draw = self.generator
        return self._keep(
            name,
            draw.uniform(0.5, 1.5, channels),
            draw.normal(0, 0.3, channels),
            draw.normal(0, 0.3, channels),
            draw.uniform(0.3, 2.0, channels),
        )

    def _keep(self, name, *arrays):
        return self.arrays.setdefault(name, arrays)

    def into(self, model):
        for name, (first, *others) in self.arrays.items():
            layer = model.get_layer(name)
            # (out, in, h, w) -> (h, w, in, out); transposed (in, out, h, w) -> (h, w, out, in), as Keras has it.
            if first.ndim == 4:
                first = first.transpose(2, 3, 1, 0)
            elif first.ndim == 2:
                first = first.T
            layer.set_weights([first, *others])
        ours = {layer.name for layer in model.layers if layer.trainable_weights}
        assert set(self.arrays) == ours


def convolve(maps, kernel, bias, stride=1, periodic=False):
    """torch.nn.Conv2d(padding=size // 2): cross-correlation."""
    size = kernel.shape[-1]
    margin = size // 2
    _, height, width = maps.shape
    padded = np.pad(maps, ((0, 0), (margin, margin), (margin, margin)), mode="wrap" if periodic else "constant")
    out = np.zeros((len(kernel), height, width))
    for row in range(size):
        for column in range(size):
            window = padded[:, row : row + height, column : column + width]
            out += np.einsum("oi,ihw->ohw", kernel[:, :, row, column], window)
    return out[:, ::stride, ::stride] + bias[:, None, None]


def convolve_transposed(maps, kernel, bias, periodic=False):
    """torch.nn.ConvTranspose2d(3, stride=2, padding=1, output_padding=1): cell i adds to the cells 2 i - 1 + k."""
    _, height, width = maps.shape
    out = np.zeros((kernel.shape[1], 2 * height, 2 * width))
    for i in range(height):
        for j in range(width):
            for k in range(3):
                for m in range(3):
                    row, column = 2 * i - 1 + k, 2 * j - 1 + m
                    if periodic:
                        row, column = row % (2 * height), column % (2 * width)
                    if 0 <= row < 2 * height and 0 <= column < 2 * width:
                        out[:, row, column] += maps[:, i, j] @ kernel[:, :, k, m]
    return out + bias[:, None, None]


def normalize(maps, scale, offset, mean, variance):
    scale, offset, mean, variance = (array[:, None, None] for array in (scale, offset, mean, variance))
    return (maps - mean) / np.sqrt(variance + EPSILON) * scale + offset


def unit(maps, weights, block, number, width, periodic, stride=1):
    maps = convolve(
        maps, *weights.convolution(f"{block}_convolution_{number}", len(maps), width), stride, periodic=periodic
    )
    return np.maximum(normalize(maps, *weights.batch_normalization(f"{block}_batch_normalization_{number}", width)), 0)


def pool(maps):
    channels, height, width = maps.shape
    return maps.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))


def encoder(maps, weights, widths, periodic):
    skips = []
    for level, width in enumerate(widths, start=1):
        maps = unit(maps, weights, f"encoder_{level}", 1, width, periodic)
        maps = unit(maps, weights, f"encoder_{level}", 2, width, periodic)
        skips.append(maps)
        maps = pool(maps)
    return maps, skips


def unet(maps, weights, widths, out_channels, periodic):
    """One map (channels, height, width), normalised, to the normalised prediction."""
    maps, skips = encoder(maps, weights, widths, periodic)
    maps = unit(maps, weights, "bottleneck", 1, 2 * widths[-1], periodic)
    maps = unit(maps, weights, "bottleneck", 2, 2 * widths[-1], periodic)
    for level in range(len(widths), 0, -1):
        block, width = f"decoder_{level}", widths[level - 1]
        up = weights.transposed(f"{block}_transposed_convolution", len(maps), width)
        # The upsampled channels first: ``torch.cat((upsampled, bypass), 1)``.
        maps = np.concatenate([convolve_transposed(maps, *up, periodic), skips[level - 1]])
        maps = unit(maps, weights, block, 1, width, periodic)
        maps = unit(maps, weights, block, 2, width, periodic)
    return convolve(maps, *weights.convolution("output", len(maps), out_channels), periodic=periodic)


def astro_net(maps, weights, encoder_widths, widths, dense_units, num_parameters, periodic):
    """One map (channels, height, width), normalised, to the network's own outputs."""
    maps, _ = encoder(maps, weights, encoder_widths, periodic)
    for number, width in enumerate(widths, start=1):
        maps = unit(maps, weights, "regression", number, width, periodic, stride=2)
    # Keras flattens channels last.
    flat = maps.transpose(1, 2, 0).ravel()
    kernel, bias = weights.dense("dense", len(flat), dense_units)
    hidden = np.maximum(kernel @ flat + bias, 0)
    kernel, bias = weights.dense("output", dense_units, num_parameters)
    return kernel @ hidden + bias
