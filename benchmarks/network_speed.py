"""Training and inference of every network, ours against plain PyTorch, images per second of one processor thread.

    python benchmarks/network_speed.py [--networks regression matter separation dust higlow ...]
                                       [--variants ...] [--side N] [--batch-size N] [--width N] [--seconds 3]
                                       [--rounds 2] [--json FILE]

The same network with the same loss and optimizer, in Keras in float32 and mixed_bfloat16 and in PyTorch
(`torch_networks.py`) as it comes and with its channels last; ``--variants`` can add PyTorch in bfloat16 (autocast, with
channels last). The numbers of weights are compared, and a difference is an error. Ratios are against PyTorch as it
comes, in the same run.

An image is a light-cone (100 x 2200 cells, batch of 20), a 21-cm map (64 x 64, 30; ``--networks matter --side 200`` is
the paper's), an observed map with those of its lines (256 x 256, 4), a cutout of 64 velocity channels (64 x 64, 64), or
an HI map (64 x 64, 64). A step of the separation updates its three networks. The flow stays in float32: ``higlow`` is
that of the paper's text, ``higlow-public`` that of its public code, ``higlow-quick`` has fewer steps; its inference is
the log-density, and it samples too. ``start`` are the seconds from the model's construction to the end of its first
training step, the making of the graph included.
"""

import importlib
import sys
import time

import side_by_side

# Cells of a map, batch.
NETWORKS = {
    "regression": ((100, 2200), 20),
    "matter": ((64, 64), 30),
    "separation": ((256, 256), 4),
    "dust": ((64, 64), 64),
    "higlow": ((64, 64), 64),
    "higlow-quick": ((64, 64), 32),
    "higlow-public": ((64, 64), 64),
}
# Arguments of the flows: the text of the paper, our smaller preset, the authors' public code.
FLOWS = {
    "higlow": {},
    "higlow-quick": {"steps": 8, "injector": "channel"},
    "higlow-public": {"injector": "convolutional", "final_block": True},
}
MODULES = {
    "regression": "lightcone_regressor",
    "matter": "matter_unet",
    "separation": "line_separator",
    "dust": "dust_unet",
    **dict.fromkeys(FLOWS, "higlow"),
}
KERAS = ("keras float32", "keras mixed_bfloat16")
REFERENCE = "pytorch"
TORCH = (REFERENCE, "pytorch channels_last")
IN_BFLOAT16 = "pytorch bfloat16"
VELOCITIES = 64


def requests(network: str, variants, arguments) -> dict[str, dict]:
    """What is measured of a network: one request for each variant."""
    map_shape, batch_size = NETWORKS[network]
    if arguments.side:
        map_shape = (arguments.side, arguments.side * map_shape[1] // map_shape[0])
    common = {
        "network": network,
        "map_shape": map_shape,
        "batch_size": arguments.batch_size or batch_size,
        "width": arguments.width,
        "seconds": arguments.seconds,
    }
    half = ("keras mixed_bfloat16", IN_BFLOAT16)
    return {name: {**common, "variant": name} for name in variants if not (network in FLOWS and name in half)}


def measure(request: dict) -> dict:
    """Images per processor second of one variant of a network."""
    if request["variant"].startswith("pytorch"):
        import torch_networks  # noqa: F401 - before the clock starts
    else:
        importlib.import_module(f"keras_cosmo.models.{MODULES[request['network']]}")
    maps, targets = batch(request["network"], request["map_shape"], request["batch_size"])
    begin = time.process_time()
    case = prepared(request, maps, targets)
    case.train()
    found = {"parameters": case.parameters, "start_seconds": time.process_time() - begin}
    images = request["batch_size"]
    found["train_per_second"] = images / side_by_side.fastest(case.train, request["seconds"])
    case.infer()
    found["inference_per_second"] = images / side_by_side.fastest(case.infer, request["seconds"])
    if case.sample:
        case.sample()
        found["sample_per_second"] = images / side_by_side.fastest(case.sample, request["seconds"])
    return {**found, "peak_gigabytes": side_by_side.peak_gigabytes()}


def prepared(request, maps, targets):
    """A variant of a network as a `torch_networks.Case`, or what looks like one."""
    network, map_shape, variant = request["network"], tuple(request["map_shape"]), request["variant"]
    if variant.startswith("keras"):
        return keras_case(network, map_shape, maps, targets, variant.split()[1], request["width"])
    from torch_networks import training_case

    return training_case(
        network,
        map_shape,
        maps,
        targets,
        width=request["width"],
        channels_last=variant != REFERENCE,
        bfloat16=variant == IN_BFLOAT16,
        flow=FLOWS.get(network),
    )


def batch(network: str, map_shape, batch_size: int):
    """Random maps and targets of a network, channels last."""
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (batch_size, *map_shape)
    if network in FLOWS:
        maps = np.exp(generator.standard_normal(shape)).astype("float32")
        return maps, generator.uniform((0.1, 0.6), (0.5, 1.0), (batch_size, 2)).astype("float32")
    if network == "separation":
        lines = generator.gamma(0.3, 1e-8, (*shape, 2)).astype("float32")
        return lines.sum(-1, keepdims=True), lines
    if network == "dust":
        maps = generator.standard_normal((*shape, VELOCITIES), "float32")
        dust = maps.mean(-1, keepdims=True)
        return maps, np.concatenate([dust, np.ones_like(dust)], -1)
    maps = generator.standard_normal((*shape, 1), "float32")
    targets = (batch_size, 4) if network == "regression" else (*shape, 1)
    return maps, generator.standard_normal(targets, "float32")


def keras_model(network: str, map_shape, precision: str, width=None):
    """Ours, compiled as its task does it."""
    if network == "regression":
        import keras

        from keras_cosmo.models.lightcone_regressor import LightconeRegressor

        filters = {} if width is None else {"filters": (width, 2 * width)}
        model = LightconeRegressor(map_shape, dtype=precision, **filters)
        model.compile(keras.optimizers.RMSprop(1e-3), "mse")
    elif network == "matter":
        from keras_cosmo.models.matter_unet import MatterUNet
        from keras_cosmo.optimizers import AdamL2

        widths = {} if width is None else {"widths": (width, 2 * width, 4 * width)}
        model = MatterUNet(map_shape, dtype=precision, **widths)
        model.compile(AdamL2(1e-3, beta_1=0.5, l2=1e-4), "mse")
    elif network == "separation":
        from keras_cosmo.models.line_separator import LineSeparator

        depth = min(8, map_shape[0].bit_length() - 1)
        model = LineSeparator(map_shape, ("halpha", "oiii"), 1e-7, depth=depth, width=width or 64, dtype=precision)
        model.compile()
    elif network == "dust":
        from keras_cosmo.losses import CorrelationLoss
        from keras_cosmo.models.dust_unet import DustUNet
        from keras_cosmo.optimizers import Adam

        first = width or 64
        widths = tuple(first * 2**level for level in range(4))
        model = DustUNet(VELOCITIES, map_shape, widths=widths, bottleneck=16 * first, dtype=precision)
        model.compile(Adam(1e-3), CorrelationLoss(pixel_size=23.4 * 64 / map_shape[0]))
    else:
        from keras_cosmo.models.higlow import HIGlow

        model = HIGlow(
            map_shape,
            ("Omega_m", "sigma_8"),
            (0.1, 0.6),
            (0.5, 1.0),
            "log10-minmax",
            (-4.0, 4.0),
            blocks=min(6, map_shape[0].bit_length() - 1),
            width=width or 16,
            seed=0,
            **FLOWS[network],
        )
        model.compile()
    return model


def keras_case(network: str, map_shape, maps, targets, precision: str, width=None):
    """Ours, with its training step and inference as graphs."""
    import types

    import tensorflow as tf

    model = keras_model(network, map_shape, precision, width)
    if network in ("regression", "separation"):
        maps = maps[..., 0]
    x, y = tf.constant(maps), tf.constant(targets)
    step = tf.function(lambda x, y: model.train_step((x, y)))
    flow = network in FLOWS
    if flow:

        def infer():
            return model.log_prob(x, y).numpy()

    else:
        # The one network that is used: discriminators serve training alone.
        network = model.generator if network == "separation" else model
        forward = tf.function(lambda x: network(x, training=False))

        def infer():
            return forward(x).numpy()

    return types.SimpleNamespace(
        parameters=count_weights(model),
        train=lambda: float(step(x, y)["loss"]),
        infer=infer,
        sample=(lambda: model.sample(y, seed=(1, 2)).numpy()) if flow else None,
    )


def count_weights(model) -> int:
    """Number of trained weights."""
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


def compare(arguments) -> dict:
    """Measure every network and print a table of each."""
    variants = list(arguments.variants)
    if side_by_side.installed("torch") is None and any(name.startswith("pytorch") for name in variants):
        print("PyTorch is missing here (pip install torch): no reference, ours alone.")
        variants = [name for name in variants if name.startswith("keras")]
    found = {}
    for network in arguments.networks:
        wanted = requests(network, variants, arguments)
        if not wanted:
            continue
        results = side_by_side.alternate(__file__, wanted, arguments.rounds)
        request = next(iter(wanted.values()))
        height, width = request["map_shape"]
        print(f"\n{network}: {height} x {width} cells, batch of {request['batch_size']}")
        print(report(results), flush=True)
        if arguments.rounds > 1:
            for line in spread(results):
                print(line)
        counts = {name: rows[0]["parameters"] for name, rows in results.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"{network}: the networks compared do not have the same number of weights: {counts}.")
        print(f"weights, the same in all: {next(iter(counts.values())):,}", flush=True)
        found[network] = {"request": {**request, "variant": list(wanted)}, "rows": results, "ratios": ratios(results)}
    return found


QUANTITIES = {"train_per_second": "training", "inference_per_second": "inference", "sample_per_second": "sampling"}


def ratios(results) -> dict:
    """How many times as fast as PyTorch as it comes each variant is."""
    return {
        name: {
            quantity: side_by_side.ratio(results, name, REFERENCE, key)
            for key, quantity in QUANTITIES.items()
            if key in results[name][0]
        }
        for name in results
    }


def spread(results):
    """Lines with the ratios of every round."""
    for key, quantity in QUANTITIES.items():
        rounds = {
            name: side_by_side.ratios_by_round(results, name, REFERENCE, key) for name in results if name != REFERENCE
        }
        parts = [f"{name} {', '.join(map(side_by_side.cell, found))}" for name, found in rounds.items() if found]
        if parts:
            yield f"ratio of {quantity} round by round: {'; '.join(parts)}"


def report(results) -> str:
    """Images per processor second and their ratios."""
    keys = [key for key in QUANTITIES if any(key in rows[0] for rows in results.values())]
    heads = ["images per second"]
    for key in keys:
        heads += [QUANTITIES[key], "ratio"]
    heads += ["start, s", "peak, GB"]
    rows = []
    for name, measured in results.items():
        best = side_by_side.merged(measured)
        row = [name]
        for key in keys:
            row += [best.get(key), side_by_side.ratio(results, name, REFERENCE, key)]
        rows.append([*row, best["start_seconds"], best["peak_gigabytes"]])
    return side_by_side.table(heads, rows)


def main(argv=None) -> int:
    """Measure the networks that are asked for."""
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--variants", nargs="+", choices=(*KERAS, *TORCH, IN_BFLOAT16), default=[*KERAS, *TORCH])
    parser.add_argument("--side", type=int, help="cells along the (shorter) side of the maps (default: see above)")
    parser.add_argument("--batch-size", type=int, help="images of a batch (default: see above)")
    parser.add_argument("--width", type=int, help="channels of the first layer (default: the paper's)")
    parser.add_argument("--seconds", type=float, default=3.0, help="processor time of one measurement, at least")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
