"""Cost of training, densities and samples of the conditional flow of HI maps, on one thread.

    python benchmarks/higlow_speed.py [--sizes paper quick] [--batch-size 64] [--steps 3] [--rounds 1]
                                      [--injector scalar] [--final-block]

Each measurement runs in a process of its own with one thread, so that seconds of the processor mean something on a
busy machine. Prints the seconds of the processor before the first training step was done (construction, tracing, first
call), images per second of the processor in training, of densities and of samples (the fastest of ``--steps``), and
the peak resident memory.

Where PyTorch can be imported, the same flow written plainly in it (a module per step, its injectors MLPs too) runs in
turn with ours (A B A B), and the ratios are printed; where not, that is said.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time

# Side of the maps, blocks, steps per block, width.
SIZES = {"paper": (64, 6, 20, 16), "quick": (32, 4, 6, 16)}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def fastest(function, repeats: int) -> float:
    """Processor seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        function()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def measure_keras(arguments, size: str) -> dict:
    """Ours."""
    import numpy as np
    import tensorflow as tf

    from keras_cosmo.models.higlow import HIGlow

    side, blocks, steps, width = SIZES[size]
    begin = time.process_time()
    model = HIGlow(
        (side, side),
        ("Omega_m", "sigma_8"),
        (0.1, 0.6),
        (0.5, 1.0),
        "log10-minmax",
        (-4.0, 4.0),
        blocks=blocks,
        steps=steps,
        width=width,
        final_block=arguments.final_block,
        injector=arguments.injector,
        seed=0,
    )
    model.compile()
    constructed = time.process_time() - begin
    maps, parameters = (tf.constant(values) for values in batch(np, side, arguments.batch_size))
    step = tf.function(lambda maps, parameters: model.train_step((maps, parameters)))
    begin = time.process_time()
    step.get_concrete_function(maps, parameters)
    traced = time.process_time() - begin
    begin = time.process_time()
    step(maps, parameters)
    first = time.process_time() - begin
    train = fastest(lambda: float(step(maps, parameters)["loss"]), arguments.steps)
    begin = time.process_time()
    model.log_prob(maps, parameters)
    first_log_prob = time.process_time() - begin
    log_prob = fastest(lambda: model.log_prob(maps, parameters).numpy(), arguments.steps)
    model.sample(parameters, seed=(0, 0))
    sample = fastest(lambda: model.sample(parameters, seed=(1, 2)).numpy(), arguments.steps)
    return {
        "parameters": sum(weight.shape.num_elements() for weight in model.trainable_weights),
        "construct_seconds": constructed,
        "trace_seconds": traced,
        "first_call_seconds": first,
        "first_step_seconds": constructed + traced + first,
        "first_log_prob_seconds": first_log_prob,
        **speeds(arguments.batch_size, train, log_prob, sample),
    }


def measure_torch(arguments, size: str) -> dict:
    """The same flow in PyTorch, one module per step."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Step(nn.Module):
        def __init__(self, channels, width):
            super().__init__()
            self.injector = nn.ModuleList(
                nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1)) for _ in range(2)
            )
            rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
            permutation, lower, upper = torch.linalg.lu(rotation)
            diagonal = torch.diagonal(upper)
            self.lower, self.upper = nn.Parameter(lower), nn.Parameter(upper)
            self.log_diagonal = nn.Parameter(diagonal.abs().log())
            self.register_buffer("permutation", permutation)
            self.register_buffer("sign", diagonal.sign())
            self.network = nn.Sequential(
                nn.Conv2d(channels // 2 + 2, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
                nn.ReLU(),
                nn.Conv2d(width, channels, 3, padding=1),
            )
            for last in (self.injector[0][-1], self.injector[1][-1], self.network[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

        def matrix(self):
            lower = torch.tril(self.lower, -1) + torch.eye(len(self.sign))
            upper = torch.triu(self.upper, 1) + torch.diag(self.sign * self.log_diagonal.exp())
            return self.permutation @ lower @ upper

        def inject(self, z):
            log_scale, shift = (network(z)[:, :, None, None] for network in self.injector)
            return 5 * torch.tanh(log_scale / 5), shift

        def couple(self, kept, z):
            planes = z[:, :, None, None].expand(-1, -1, *kept.shape[2:])
            raw, shift = self.network(torch.cat([kept, planes], 1)).chunk(2, 1)
            return 0.5 * torch.sigmoid(raw + 2) + 0.5, shift

        def forward(self, x, z):
            log_scale, shift = self.inject(z)
            pixels = x.shape[2] * x.shape[3]
            x = functional.conv2d(x * log_scale.exp() + shift, self.matrix().T[:, :, None, None])
            kept, changed = x.chunk(2, 1)
            scale, shift = self.couple(kept, z)
            log_det = pixels * (x.shape[1] * log_scale[:, 0, 0, 0] + self.log_diagonal.sum())
            return torch.cat([kept, (changed + shift) * scale], 1), log_det + scale.log().sum((1, 2, 3))

        def reverse(self, y, z):
            kept, changed = y.chunk(2, 1)
            scale, shift = self.couple(kept, z)
            y = torch.cat([kept, changed / scale - shift], 1)
            y = functional.conv2d(y, self.matrix().inverse().T[:, :, None, None])
            log_scale, shift = self.inject(z)
            return (y - shift) * (-log_scale).exp()

    class Flow(nn.Module):
        def __init__(self, side, blocks, steps, width, final_block):
            super().__init__()
            self.squeezes, self.shapes, channels = blocks, [], 1
            self.blocks = nn.ModuleList()
            for index in range(blocks + final_block):
                if index < blocks:
                    side, channels = side // 2, 4 * channels
                self.blocks.append(nn.ModuleList(Step(channels, width) for _ in range(steps)))
                if index < blocks + final_block - 1:
                    channels //= 2
                self.shapes.append((channels, side, side))

        def forward(self, x, z):
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
            norm = norm + x.square().sum((1, 2, 3))
            return total - 0.5 * norm

        @torch.no_grad()
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

    side, blocks, steps, width = SIZES[size]
    begin = time.process_time()
    model = Flow(side, blocks, steps, width, arguments.final_block)
    optimizer = torch.optim.Adam(model.parameters(), 3e-4)
    maps, parameters = (torch.from_numpy(values) for values in batch(np, side, arguments.batch_size))
    maps = ((maps.log10() + 4) / 8)[:, None]
    z = (parameters - torch.tensor([0.3, 0.8])) / 0.2

    def train_step():
        optimizer.zero_grad()
        loss = -model(maps, z).mean() / side**2
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        return float(loss)

    def log_prob():
        with torch.no_grad():
            return model(maps, z)

    train_step()
    first = time.process_time() - begin
    train = fastest(train_step, arguments.steps)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "first_step_seconds": first,
        **speeds(
            arguments.batch_size,
            train,
            fastest(log_prob, arguments.steps),
            fastest(lambda: model.sample(z), arguments.steps),
        ),
    }


MEASURES = {"keras_cosmo": measure_keras, "pytorch": measure_torch}


def batch(np, side: int, batch_size: int):
    """Log-normal maps and parameters."""
    generator = np.random.default_rng(0)
    maps = np.exp(generator.standard_normal((batch_size, side, side))).astype("float32")
    return maps, generator.uniform((0.1, 0.6), (0.5, 1.0), (batch_size, 2)).astype("float32")


def speeds(batch_size: int, train: float, log_prob: float, sample: float) -> dict:
    """Images per second of the processor, and the peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "linux" else 1e9)
    return {
        "train": batch_size / train,
        "log_prob": batch_size / log_prob,
        "sample": batch_size / sample,
        "peak_gigabytes": peak,
    }


def main(argv=None) -> int:
    """Measure every size, ours and PyTorch in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=tuple(SIZES), nargs="+", default=list(SIZES))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3, help="calls of which the fastest counts")
    parser.add_argument("--rounds", type=int, default=1, help="times each is measured")
    parser.add_argument("--injector", choices=("scalar", "channel", "convolutional"), default="scalar")
    parser.add_argument("--final-block", action="store_true", help="one more block, as in the authors' code")
    parser.add_argument("--one", choices=tuple(MEASURES), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(MEASURES[arguments.one](arguments, arguments.sizes[0])))
        return 0
    who = list(MEASURES)
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is missing here: no reference.")
        who.remove("pytorch")
    for size in arguments.sizes:
        results = {name: [] for name in who}
        for name in who * arguments.rounds:
            command = [sys.executable, __file__, "--sizes", size, "--one", name, "--injector", arguments.injector]
            command += ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
            command += ["--final-block"] * arguments.final_block
            environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "TF_CPP_MIN_LOG_LEVEL": "3"}
            result = subprocess.run(command, capture_output=True, text=True, env=environment)
            if result.returncode:
                print(result.stderr, file=sys.stderr)
                return result.returncode
            row = json.loads(result.stdout.splitlines()[-1])
            results[name].append(row)
            print(size, name, {key: round(value, 3) for key, value in row.items()}, flush=True)
        if len(who) > 1:
            for key in ("train", "log_prob", "sample"):
                ratios = [a[key] / b[key] for a, b in zip(*results.values(), strict=True)]
                print(f"{size}: keras_cosmo / pytorch, {key}:", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
