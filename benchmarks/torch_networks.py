"""The five networks in plain PyTorch, written from the papers' descriptions, with as many weights as ours.

Each is what a PyTorch user would write: modules in a row, built-in layers, losses and optimizers, a Fourier transform
for the dust loss, one module per step of the flow. Nothing is fused or stacked by hand. `training_case` gives one of
them with its training step, `Case`; maps come in as NumPy arrays with the channels last, as for Keras.

Paddings differ where PyTorch and TensorFlow do: strided convolutions of 5 x 5 pixels pad 2 pixels on each side here
(and 1 and 2 in TensorFlow), which changes neither shapes nor cost.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Case:
    """A network ready to be measured.

    Args:
        parameters: Number of trained weights.
        train: One training step with the batch; returns the loss.
        infer: Answers for the batch: what the network predicts, the log-densities of a flow.
        sample: Draws as many maps as the batch has, for a flow.
    """

    parameters: int
    train: Callable
    infer: Callable
    sample: Callable | None = None


def light_cone_network(map_shape, filters=8) -> nn.Module:
    """Gillet et al. 2019, Table 1."""
    side = [(((n - 9) // 2) - 9) // 2 for n in map_shape]
    return nn.Sequential(
        nn.Conv2d(1, filters, 10), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(filters, 2 * filters, 10), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(2 * filters * side[0] * side[1], 64), nn.ReLU(), nn.BatchNorm1d(64),
        nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip


class UNet(nn.Module):
    """Two units per grid on the way down and up, transposed convolutions, concatenations.

    Args:
        in_channels: Channels of the maps.
        widths: Channels of the encoder's blocks.
        bottleneck: Channels of the coarsest grid.
        unit: ``(channels, width) -> Module``: convolution, batch normalisation, activation.
        upsampling: ``(channels, width) -> Module``: the transposed convolution.
        last: ``(channels) -> Module``: the last convolution.
    """

    def __init__(self, in_channels, widths, bottleneck, unit, upsampling, last):
        super().__init__()

        def pair(channels, width):
            return nn.Sequential(unit(channels, width), unit(width, width))

        before = (in_channels, *widths[:-1])
        self.encoder = nn.ModuleList(pair(*channels) for channels in zip(before, widths, strict=True))
        self.bottleneck = pair(widths[-1], bottleneck)
        coarser = (*widths[1:], bottleneck)
        self.up = nn.ModuleList(upsampling(*channels) for channels in zip(coarser, widths, strict=True))
        self.decoder = nn.ModuleList(pair(2 * width, width) for width in widths)
        self.last = last(widths[0])

    def forward(self, x):
        skips = []
        for block in self.encoder:
            skips.append(block(x))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for up, block, skip in reversed(list(zip(self.up, self.decoder, skips, strict=True))):
            x = block(torch.cat([up(x), skip], 1))
        return self.last(x)


def matter_network(width=64) -> nn.Module:
    """Villanueva-Domingo & Villaescusa-Navarro 2021, Table II."""
    return UNet(
        1,
        (width, 2 * width, 4 * width),
        8 * width,
        lambda channels, width: nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        ),
        lambda channels, width: nn.ConvTranspose2d(channels, width, 3, stride=2, padding=1, output_padding=1),
        lambda channels: nn.Conv2d(channels, 1, 3, padding=1),
    )


def dust_network(in_channels=64, width=64) -> nn.Module:
    """Zhang et al. 2019, figure 2; no bias before batch normalisation."""
    return UNet(
        in_channels,
        (width, 2 * width, 4 * width, 8 * width),
        16 * width,
        lambda channels, width: nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, eps=1e-3, momentum=0.01),
            nn.ReLU(),
            nn.Dropout(0.3),
        ),
        lambda channels, width: nn.ConvTranspose2d(channels, width, 2, stride=2),
        lambda channels: nn.Conv2d(channels, 1, 1),
    )


class DustLoss(nn.Module):
    """Correlation of Fourier modes in two bands of multipoles and mean difference (Zhang et al. 2019, equation 2.3)."""

    def __init__(self, side, pixel_size, weight=30.0):
        super().__init__()
        full_circle = 360 * 60 / pixel_size
        ell = full_circle * torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None])
        count = torch.full_like(ell, 2.0)
        count[:, 0] = count[:, -1] = 1.0
        bands = [count * ((ell >= low) & (ell < high)) for low, high in ((1e-3, 100), (100, 200))]
        self.register_buffer("shares", torch.stack([band / band.sum() for band in bands]))
        self.weight = weight

    def forward(self, predicted, target):
        true, mask = target[:, 0], target[:, 1]
        predicted = predicted[:, 0] * mask
        one, other = torch.fft.rfft2(true), torch.fft.rfft2(predicted)
        modes = (one * other.conj()).real / (one.abs() * other.abs() + 1e-20)
        correlations = (modes[:, None] * self.shares).sum((2, 3))
        return (self.weight * (1 - correlations).sum(1)).mean() + (true - predicted).abs().mean()


class SeparationGenerator(nn.Module):
    """Moriwaki et al. 2020, section 2.2: one encoder of ``depth`` convolutions, a decoder per line."""

    def __init__(self, depth=8, width=64, lines=2):
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(depth)]
        self.first = nn.Conv2d(1, width, 5, stride=2, padding=2)
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(a, b, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(b))
            for a, b in itertools.pairwise(widths)
        )
        self.decoders = nn.ModuleList(self._decoder(widths) for _ in range(lines))

    @staticmethod
    def _decoder(widths):
        layers = nn.ModuleList()
        channels = widths[-1]
        for number, width in enumerate(reversed(widths[:-1])):
            parts = [
                nn.ReLU(),
                nn.ConvTranspose2d(channels, width, 5, stride=2, padding=2, output_padding=1, bias=False),
                nn.BatchNorm2d(width),
            ]
            layers.append(nn.Sequential(*parts, *[nn.Dropout(0.5)] * (number < 3)))
            channels = 2 * width
        last = nn.ConvTranspose2d(channels, 1, 5, stride=2, padding=2, output_padding=1)
        layers.append(nn.Sequential(nn.ReLU(), last, nn.Tanh()))
        return layers

    def forward(self, x):
        skips = [self.first(x)]
        for block in self.encoder:
            skips.append(block(skips[-1]))
        lines = []
        for decoder in self.decoders:
            x = skips[-1]
            for block, skip in zip(decoder, reversed(skips[:-1]), strict=False):
                x = torch.cat([block(x), skip], 1)
            lines.append(decoder[-1](x))
        return torch.cat(lines, 1)


def line_discriminator(side, width=64) -> nn.Module:
    """Moriwaki et al. 2020, section 2.2: four convolutions, one logit."""
    layers = [nn.Conv2d(2, width, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
    for number in range(1, 4):
        a, b, stride = width * 2 ** (number - 1), width * 2**number, 2 if number < 3 else 1
        layers += [nn.Conv2d(a, b, 5, stride=stride, padding=2, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
    for _ in range(3):
        side = math.ceil(side / 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width * side**2, 1))


class FlowStep(nn.Module):
    """Injector, 1 x 1 convolution and coupling (Friedman & Hassan 2022, section 2.2)."""

    def __init__(self, channels, side, width, injector="scalar"):
        super().__init__()
        kernel = 3 if side > 1 else 1
        self.by_pixel = injector == "convolutional"
        if self.by_pixel:
            self.injector = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(2, width, kernel, padding="same"), nn.ReLU(), nn.Conv2d(width, width, 1)),
                    nn.Sequential(
                        nn.ReLU(), nn.ConstantPad2d(kernel // 2, 1.0), nn.Conv2d(width, 2 * channels, kernel)
                    ),
                ]
            )
        else:
            outputs = channels if injector == "channel" else 1
            self.injector = nn.ModuleList(
                nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, outputs)) for _ in range(2)
            )
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = torch.diagonal(upper)
        # Below the diagonal the one factor, above it the other.
        self.triangles = nn.Parameter(torch.tril(lower, -1) + torch.triu(upper, 1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.network = nn.Sequential(
            nn.Conv2d(channels // 2 + 2, width, kernel, padding="same"),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, channels, kernel, padding="same"),
        )
        injectors = self.injector[1:] if self.by_pixel else self.injector
        for last in (*(injector[-1] for injector in injectors), self.network[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def matrix(self):
        lower = torch.tril(self.triangles, -1) + torch.eye(len(self.sign))
        upper = torch.triu(self.triangles, 1) + torch.diag(self.sign * self.log_diagonal.exp())
        return self.permutation @ lower @ upper

    def inject(self, z, shape):
        if self.by_pixel:
            first, second = self.injector
            log_scale, shift = second(first(z[:, :, None, None].expand(-1, -1, *shape))).chunk(2, 1)
        else:
            log_scale, shift = (network(z)[:, :, None, None] for network in self.injector)
        return 5 * torch.tanh(log_scale / 5), shift

    def couple(self, kept, z):
        planes = z[:, :, None, None].expand(-1, -1, *kept.shape[2:])
        raw, shift = self.network(torch.cat([kept, planes], 1)).chunk(2, 1)
        return 0.5 * torch.sigmoid(raw + 2) + 0.5, shift

    def forward(self, x, z):
        log_scale, shift = self.inject(z, x.shape[2:])
        pixels = x.shape[2] * x.shape[3]
        x = functional.conv2d(x * log_scale.exp() + shift, self.matrix().T[:, :, None, None])
        kept, changed = x.chunk(2, 1)
        scale, shift = self.couple(kept, z)
        # Of one scale for all, one for each channel, or one for each pixel of each.
        log_det = log_scale.sum((1, 2, 3)) * (x[0].numel() // log_scale[0].numel())
        log_det = log_det + pixels * self.log_diagonal.sum()
        return torch.cat([kept, (changed + shift) * scale], 1), log_det + scale.log().sum((1, 2, 3))

    def reverse(self, y, z):
        kept, changed = y.chunk(2, 1)
        scale, shift = self.couple(kept, z)
        y = torch.cat([kept, changed / scale - shift], 1)
        y = functional.conv2d(y, self.matrix().inverse().T[:, :, None, None])
        log_scale, shift = self.inject(z, y.shape[2:])
        return (y - shift) * (-log_scale).exp()


class ConditionalGlow(nn.Module):
    """Friedman & Hassan 2022: ``blocks`` times a squeeze and ``steps`` steps, half of the channels finished.

    Maps are ``(batch, 1, side, side)`` from 0 to 1, parameters from -1 to 1. The injectors are MLPs from the parameters
    to one scale and shift ("scalar") or to one per channel ("channel"), or, as in the authors' public code, three
    convolutions on constant maps ("convolutional"); that code also has a last block without squeeze, ``final_block``.
    """

    def __init__(self, side, blocks=6, steps=20, width=16, injector="scalar", final_block=False):
        super().__init__()
        self.blocks, self.shapes, channels, self.squeezes = nn.ModuleList(), [], 1, blocks
        for index in range(blocks + final_block):
            if index < blocks:
                side, channels = side // 2, 4 * channels
            self.blocks.append(nn.ModuleList(FlowStep(channels, side, width, injector) for _ in range(steps)))
            if index < blocks + final_block - 1:
                channels //= 2
            self.shapes.append((channels, side, side))

    def forward(self, x, z):
        """Log-densities, without the constant of the normal distribution."""
        total, norm = 0.0, 0.0
        for index, block in enumerate(self.blocks):
            if index < self.squeezes:
                x = functional.pixel_unshuffle(x, 2)
            for step in block:
                x, log_det = step(x, z)
                total = total + log_det
            if index < len(self.blocks) - 1:
                x, latent = x.chunk(2, 1)
                norm = norm + latent.square().sum((1, 2, 3))
        return total - 0.5 * (norm + x.square().sum((1, 2, 3)))

    def sample(self, z):
        x = torch.randn(len(z), *self.shapes[-1])
        for index in reversed(range(len(self.blocks))):
            if index < len(self.blocks) - 1:
                x = torch.cat([x, torch.randn(len(z), *self.shapes[index])], 1)
            for step in reversed(self.blocks[index]):
                x = step.reverse(x, z)
            if index < self.squeezes:
                x = functional.pixel_shuffle(x, 2)
        return x


def training_case(
    network, map_shape, maps, targets, *, width=None, channels_last=False, bfloat16=False, flow=None
) -> Case:
    """One of the networks with its batch, loss and optimizer.

    Args:
        network: "regression", "matter", "separation", "dust" or, for a flow, "higlow...".
        map_shape: Height and width of the maps.
        maps: NumPy array of a batch, channels last.
        targets: What belongs to it.
        width: Channels of the first layer, or of hidden layers of the flow. Defaults to the paper's.
        channels_last: Whether weights and maps lie in memory with the channels last.
        bfloat16: Whether the networks run under ``torch.autocast`` in bfloat16.
        flow: Further arguments of `ConditionalGlow`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {} if width is None else {"filters" if network == "regression" else "width": width}
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def placed(value):
        return value.to(memory_format=memory_format)

    def tensor(array):
        found = torch.from_numpy(array)
        return placed(found.permute(0, 3, 1, 2)) if array.ndim == 4 else found

    def automatic():
        return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    x, y = tensor(maps), tensor(targets)
    if network == "separation":
        return _separation(x, y, map_shape[0], options, placed, automatic)
    if network.startswith("higlow"):
        return _higlow(maps, y, map_shape[0], {**options, **(flow or {})}, placed)
    if network == "regression":
        model, loss = light_cone_network(map_shape, **options), nn.MSELoss()
        optimizer = torch.optim.RMSprop(model.parameters(), 1e-3, alpha=0.9)
    elif network == "matter":
        model, loss = matter_network(**options), nn.MSELoss()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, (0.5, 0.999), weight_decay=1e-4)
    else:
        model, loss = dust_network(maps.shape[-1], **options), DustLoss(map_shape[0], 23.4 * 64 / map_shape[0])
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model = placed(model)

    def train():
        model.train()
        optimizer.zero_grad()
        with automatic():
            predicted = model(x)
        value = loss(predicted.float(), y)
        value.backward()
        optimizer.step()
        return float(value)

    return Case(_count(model), train, _inference(model, x, automatic))


def _separation(x, y, side, options, placed, automatic):
    """All three networks, all losses, an optimizer each; all gradients before any weight moves, as in ours."""
    generator = placed(SeparationGenerator(min(8, int(math.log2(side))), **options))
    discriminators = [placed(line_discriminator(side, **options)) for _ in range(2)]
    networks = [generator, *discriminators]
    for network in networks:
        for weight in network.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, 0, 0.02)
    optimizers = [torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in networks]
    scale = 1e-7
    observed, lines = 2 * x / scale - 1, 2 * y / scale - 1
    true, false = torch.ones(len(x), 1), torch.zeros(len(x), 1)

    def train():
        for network, optimizer in zip(networks, optimizers, strict=True):
            network.train()
            optimizer.zero_grad()
        with automatic():
            predicted = generator(observed)
        predicted = predicted.float()
        # Sums of intensities: each line is shifted by -1.
        loss = 100 * functional.l1_loss(predicted.sum(1, keepdim=True) + 1, observed)
        losses = []
        for index, discriminator in enumerate(discriminators):
            line = slice(index, index + 1)
            loss = loss + 100 * functional.l1_loss(predicted[:, line], lines[:, line])
            with automatic():
                on_true = discriminator(torch.cat([observed, lines[:, line]], 1))
                on_false = discriminator(torch.cat([observed, predicted[:, line]], 1))
            on_true, on_false = on_true.float(), on_false.float()
            loss = loss + functional.binary_cross_entropy_with_logits(on_false, true)
            losses.append(
                functional.binary_cross_entropy_with_logits(on_true, true)
                + functional.binary_cross_entropy_with_logits(on_false, false)
            )
        for value, discriminator in zip(losses, discriminators, strict=True):
            value.backward(retain_graph=True, inputs=list(discriminator.parameters()))
        loss.backward(inputs=list(generator.parameters()))
        for optimizer in optimizers:
            optimizer.step()
        return float(loss)

    return Case(sum(map(_count, networks)), train, _inference(generator, observed, automatic))


def _higlow(maps, parameters, side, options, placed):
    model = placed(ConditionalGlow(side, min(6, int(math.log2(side))), **options))
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    x, z = (placed(value) if value.ndim == 4 else value for value in flow_inputs(maps, parameters))

    def train():
        optimizer.zero_grad()
        loss = -model(x, z).mean() / side**2
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        return float(loss)

    def sample():
        with torch.inference_mode():
            return 10 ** (8 * model.sample(z) - 4)

    def infer():
        with torch.inference_mode():
            return model(x, z)

    return Case(_count(model), train, infer, sample)


def flow_inputs(maps, parameters):
    """Maps ``(batch, side, side)`` from 0 to 1 with a channel, and parameters from -1 to 1, as tensors."""
    x = ((torch.as_tensor(maps).log10() + 4) / 8)[:, None]
    return x, (torch.as_tensor(parameters) - torch.tensor([0.3, 0.8])) / 0.2


def _inference(model, x, automatic):
    def infer():
        model.eval()
        with torch.inference_mode(), automatic():
            return model(x)

    return infer


def _count(model):
    return sum(weight.numel() for weight in model.parameters())
