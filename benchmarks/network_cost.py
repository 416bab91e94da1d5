"""What every network costs against the size of its maps, the batch and the number of maps, as a figure.

    python benchmarks/network_cost.py [--networks ...] [--precision float32] [--figure docs/network_cost.png]
                                      [--drawn-from FILE ...] [--seconds 1] [--rounds 1] [--json FILE]

Processor milliseconds of training per map, on one thread, against the number of cells of a map, and against the batch
at one size; and the processor seconds until n maps have gone through inference, ten at a time, with the construction of
the network and of its graph, but without the imports of libraries. Networks have the papers' widths; the flow and the
separation networks are as deep as their maps allow. The flow is in float32 whatever ``--precision``.
"""

import json
import math
import pathlib
import sys
import time

import network_speed
import side_by_side

# Shorter sides of the maps, batches; the middle ones of both are one point.
SIZES = {
    "regression": ((48, 64, 100), (2, 8, 32)),
    "matter": ((32, 64, 128), (2, 8, 32)),
    "separation": ((32, 64, 128), (1, 4, 16)),
    "dust": ((32, 64, 96), (1, 4, 16)),
    "higlow": ((16, 32, 64), (8, 32, 128)),
}
LABELS = {
    "regression": "light-cone CNN",
    "matter": "matter U-Net",
    "separation": "separation GAN",
    "dust": "dust U-Net",
    "higlow": "conditional Glow",
}
MARKERS = ("o", "s", "^", "D", "v")
NUMBERS = (10, 100, 1000)
# Seconds after which no further maps are begun.
LONGEST = 15.0


def measure(request: dict) -> dict:
    """Training seconds of a batch; or, if ``numbers`` are asked for, seconds until so many maps are done."""
    import tensorflow  # noqa: F401 - before the clock starts

    if request["network"] == "higlow":
        import tensorflow_probability.python.bijectors  # noqa: F401
    maps, targets = network_speed.batch(request["network"], request["map_shape"], request["batch_size"])
    begin = time.process_time()
    case = network_speed.prepared(request, maps, targets)
    if not request.get("numbers"):
        case.train()
        return {"train_seconds": side_by_side.fastest(case.train, request["seconds"])}
    done, found = 0, []
    for number in request["numbers"]:
        while done < number and time.process_time() - begin < LONGEST:
            case.infer()
            done += request["batch_size"]
        if done >= number:
            found.append([number, time.process_time() - begin])
    return {"until": found}


def compare(arguments) -> dict:
    """Measure everything, or read it, draw the figure and print the tables."""
    found = {}
    for file in arguments.drawn_from:
        found |= json.loads(file.read_text())["results"]["networks"]
    if not found:
        found = measured(arguments)
    rows = [[network, *row] for network, values in found.items() for row in values["training"]]
    print()
    print(side_by_side.table(["network", "cells", "batch", "training, ms per map"], rows))
    rows = [[network, *row] for network, values in found.items() for row in values["by_number"]]
    print()
    print(side_by_side.table(["network", "maps", "inference, s"], rows))
    arguments.figure.parent.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(arguments.figure, dpi=110)
    print(f"figure: {arguments.figure}")
    return {"networks": found}


def measured(arguments) -> dict:
    """Costs of every network."""
    found = {}
    for network in arguments.networks:
        sides, batches = SIZES[network]
        variant = "keras float32" if network == "higlow" else f"keras {arguments.precision}"
        common = {"network": network, "width": None, "variant": variant, "seconds": arguments.seconds}
        middle = {"map_shape": shape(network, sides[1]), "batch_size": batches[1]}
        requests = {}
        for side in sides:
            requests[f"{side} cells"] = {**common, **middle, "map_shape": shape(network, side)}
        for batch_size in (batches[0], batches[-1]):
            requests[f"batch of {batch_size}"] = {**common, **middle, "batch_size": batch_size}
        requests["inference"] = {**common, **middle, "batch_size": NUMBERS[0], "numbers": NUMBERS}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
        best = {name: side_by_side.merged(measured) for name, measured in results.items()}

        trained = [
            (requests[name], 1e3 * best[name]["train_seconds"] / requests[name]["batch_size"])
            for name in requests
            if name != "inference"
        ]
        found[network] = {
            "by_cells": sorted(
                [math.prod(request["map_shape"]), cost]
                for request, cost in trained
                if request["batch_size"] == batches[1]
            ),
            "by_batch": sorted(
                [request["batch_size"], cost]
                for request, cost in trained
                if request["map_shape"] == middle["map_shape"]
            ),
            "by_number": best["inference"]["until"],
            "training": [
                [" x ".join(map(str, request["map_shape"])), request["batch_size"], cost] for request, cost in trained
            ],
            "precision": variant.split()[1],
            "rows": results,
        }
    return found


def shape(network: str, side: int) -> tuple[int, int]:
    """Cells of a map with this shorter side."""
    height, width = network_speed.NETWORKS[network][0]
    return side, side * width // height


def draw(found):
    """The figure: cost by cells, by batch and by number of maps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from keras_cosmo.figures import style

    with style.figure_style():
        figure = Figure(figsize=(11.5, 4.1), layout="constrained")
        cells, batch, number = figure.subplots(1, 3)
        for index, (network, values) in enumerate(found.items()):
            look = {"color": style.CYCLE[index], "marker": MARKERS[index], "ms": 5}
            cells.plot(*zip(*values["by_cells"], strict=True), label=LABELS[network], **look)
            batch.plot(*zip(*values["by_batch"], strict=True), **look)
            if values["by_number"]:
                number.plot(*zip(*values["by_number"], strict=True), **look)
        for axes, label in ((cells, "cells of a map"), (batch, "maps in a batch"), (number, "maps")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(label)
            axes.grid(True)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
        number.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        cells.set_ylabel("training, processor ms per map")
        batch.set_ylabel("training, processor ms per map")
        number.set_ylabel("inference with its start, processor s")
        cells.set_title("size of the maps")
        batch.set_title("size of the batch")
        number.set_title("number of maps")
        figure.legend(loc="outside lower center", ncols=len(found))
        return figure


def main(argv=None) -> int:
    """Measure the networks that are asked for and draw the figure."""
    parser = side_by_side.parser(__doc__, rounds=1)
    parser.add_argument("--networks", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument(
        "--drawn-from",
        nargs="+",
        type=pathlib.Path,
        default=[],
        metavar="FILE",
        help="measure nothing, draw what --json wrote before",
    )
    parser.add_argument("--figure", type=pathlib.Path, default=pathlib.Path("network_cost.png"))
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of one measurement, at least")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
