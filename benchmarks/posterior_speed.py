"""Posterior of one map's parameters at 1,000 points, ours and in plain PyTorch, seconds of one processor thread.

    python benchmarks/posterior_speed.py [--side 64] [--cells 40 25] [--batch-size 250] [--seconds 3] [--rounds 2]
                                         [--json FILE]

The conditional flow (6 blocks of 20 steps for maps of 64 x 64 pixels) gives the likelihood of the map at the centres
of a grid of cells over two parameters, 40 x 25 by default; mean and standard deviation of the parameters follow. Ours
is `keras_cosmo.inference.posterior.grid_posterior` with `HIGlow`, which checks the map and interpolates between the
cells; in PyTorch (`torch_networks.py`) it is the flow in batches, a softmax and two sums. ``first`` is the first map,
which ours makes the graph for, ``next`` every other map. Weights start at random: what they are does not matter here.
"""

import sys
import time

import side_by_side

PARAMETERS = (("Omega_m", 0.1, 0.5), ("sigma_8", 0.6, 1.0))
WHO = ("keras_cosmo", "pytorch")


def measure(request: dict) -> dict:
    """Seconds of the posterior of the first map and of others."""
    import numpy as np

    side = request["side"]
    image = np.exp(np.random.default_rng(0).standard_normal((side, side))).astype("float32")
    posterior = {"keras_cosmo": ours, "pytorch": in_torch}[request["who"]](request)
    begin = time.process_time()
    mean, deviation = posterior(image)
    first = time.process_time() - begin
    following = side_by_side.fastest(lambda: posterior(image), request["seconds"])
    return {
        "first_seconds": first,
        "next_seconds": following,
        "mean": list(map(float, mean)),
        "standard_deviation": list(map(float, deviation)),
        "peak_gigabytes": side_by_side.peak_gigabytes(),
    }


def ours(request):
    """``(map) -> mean, standard deviation`` by this package."""
    import numpy as np
    from network_speed import keras_model

    from keras_cosmo.inference.posterior import grid_posterior
    from keras_cosmo.quantities import Parameter

    model = keras_model("higlow", (request["side"],) * 2, "float32")
    parameters = [Parameter(name=name, low=low, high=high) for name, low, high in PARAMETERS]

    def likelihood(maps, values):
        return np.asarray(model.log_prob(maps, values))

    def posterior(image):
        found = grid_posterior(likelihood, image, parameters, request["cells"], batch_size=request["batch_size"])
        return found.mean, found.standard_deviation

    return posterior


def in_torch(request):
    """The same in PyTorch."""
    import torch
    from torch_networks import ConditionalGlow, flow_inputs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = request["side"]
    flow = ConditionalGlow(side, min(6, side.bit_length() - 1))
    axes = [
        low + (high - low) * (torch.arange(cells) + 0.5) / cells
        for (_, low, high), cells in zip(PARAMETERS, request["cells"], strict=True)
    ]
    points = torch.cartesian_prod(*axes)

    def posterior(image):
        with torch.inference_mode():
            parts = []
            for some in points.split(request["batch_size"]):
                x, z = flow_inputs(image[None], some)
                parts.append(flow(x.expand(len(some), -1, -1, -1), z))
            share = torch.cat(parts).double().softmax(0)[:, None]
            mean = (share * points).sum(0)
            return mean, ((share * points**2).sum(0) - mean**2).clamp(min=0).sqrt()

    return posterior


def compare(arguments) -> dict:
    """Measure both and print the table."""
    common = {name: getattr(arguments, name) for name in ("side", "cells", "batch_size", "seconds")}
    requests = {who: {**common, "who": who} for who in WHO}
    if side_by_side.installed("torch") is None:
        print("PyTorch is missing here (pip install torch): no reference, ours alone.")
        del requests["pytorch"]
    results = side_by_side.alternate(__file__, requests, arguments.rounds)
    rows = []
    for who in results:
        best = side_by_side.merged(results[who])
        row = [who]
        for key in ("first_seconds", "next_seconds"):
            row += [best[key], side_by_side.ratio(results, who, WHO[1], key)]
        rows.append([*row, best["peak_gigabytes"]])
    one, other = arguments.cells
    print(f"\nposterior of a map of {arguments.side} x {arguments.side} pixels at {one * other:,} points")
    print(side_by_side.table(["", "first, s", "ratio", "next, s", "ratio", "peak, GB"], rows))
    return {"request": common, "rows": results}


def main(argv=None) -> int:
    """Measure ours and PyTorch in turn."""
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--side", type=int, default=64, help="pixels along a side of the map (default: %(default)s)")
    parser.add_argument("--cells", type=int, nargs=2, default=(40, 25), help="cells of the grid (default: 40 25)")
    parser.add_argument("--batch-size", type=int, default=250, help="points per call (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="processor time of one measurement, at least")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
