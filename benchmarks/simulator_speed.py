"""Embedded simulators against 21cmFAST itself, seconds of one processor thread for one simulation.

    python benchmarks/simulator_speed.py [--kinds lightcone coeval] [--cells 50] [--rounds 1] [--json FILE]

Both give the same maps to a network: two slices along the line of sight of a light-cone from redshift 6 to 30 (50 x
2085 cells of 1.5 Mpc), or slabs of brightness temperature and density of a box at redshifts 10 and 15. 21cmFAST
(``pip install 21cmFAST``) evolves the whole box of ``--cells`` cells a side for them, with the same time steps (1 + z
in steps of 4 %). ``first`` includes tables that a process makes once, ``next`` are further simulations with other
parameters and seeds. How well the maps agree is measured by ``compare_lightcones.py`` and ``compare_coeval.py``.
"""

import sys
import time

import side_by_side

KINDS = ("lightcone", "coeval")
WHO = ("embedded", "21cmFAST")
STEP = 1.04
# Of each kind, in the order and units of the simulators: the first, then those of the simulations that follow.
PARAMETERS = {
    "lightcone": ((60.0, 40.0, 4.7, 0.5), (30.0, 40.5, 5.2, 0.8)),
    "coeval": ((40.5, 8.5, 3.7), (40.2, 8.8, 3.3)),
}


def measure(request: dict) -> dict:
    """Seconds of the first simulation and of further ones."""
    import numpy as np

    simulator = simulator_of(request)
    first, following = (np.array(values) for values in PARAMETERS[request["kind"]])
    begin = time.process_time()
    maps = simulator.simulate(first, 1)
    found = {"first_seconds": time.process_time() - begin}
    seeds = iter(range(2, 1000))
    found["next_seconds"] = side_by_side.fastest(
        lambda: simulator.simulate(following, next(seeds)), request["seconds"], least=1
    )
    name = next(iter(maps))
    return {**found, "maps": list(np.shape(maps[name])), "peak_gigabytes": side_by_side.peak_gigabytes()}


def simulator_of(request):
    """The simulator that is asked for."""
    cells = request["cells"]
    if request["kind"] == "lightcone":
        from keras_cosmo.simulations.py21cmfast import Py21cmfastLightconeSimulator

        real = Py21cmfastLightconeSimulator(
            box_cells=cells, slices=2, spacing=24 * 1.5, parts=1, axes=(0,), redshift_step=STEP
        )
        if request["who"] == WHO[1]:
            return real
        from keras_cosmo.simulations.lightcones import LightconeSimulator

        height, length = real.fields["brightness_temp"].shape
        return LightconeSimulator(
            n_perp=height,
            n_los=length,
            cell_size=1.5,
            box_size=1.5 * cells,
            maps_per_simulation=real.maps_per_simulation,
            redshift_factor=STEP,
        )
    options = {"box_cells": cells, "redshifts": (10.0, 15.0), "slabs": 2, "slab_cells": 4}
    if request["who"] == WHO[1]:
        from keras_cosmo.simulations.py21cmfast_coeval import Py21cmfastCoevalSimulator

        return Py21cmfastCoevalSimulator(redshift_step=STEP, **options)
    from keras_cosmo.simulations.coeval import CoevalSimulator

    return CoevalSimulator(redshift_factor=STEP, **options)


def compare(arguments) -> dict:
    """Measure both of every kind and print the table."""
    who = list(WHO)
    if side_by_side.installed("21cmFAST") is None:
        print("21cmFAST is missing here (pip install '21cmFAST>=4.1.1'): no reference, ours alone.")
        who.remove(WHO[1])
    found, rows = {}, []
    for kind in arguments.kinds:
        common = {"kind": kind, "cells": arguments.cells, "seconds": arguments.seconds}
        requests = {name: {**common, "who": name} for name in who}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
        for name in who:
            best = side_by_side.merged(results[name])
            row = [f"{kind}, {name}", " x ".join(map(str, best["maps"]))]
            for key in ("first_seconds", "next_seconds"):
                row += [best[key], side_by_side.ratio(results, name, WHO[1], key)]
            rows.append([*row, best["peak_gigabytes"]])
        found[kind] = {"request": common, "rows": results}
    print()
    print(side_by_side.table(["", "maps", "first, s", "ratio", "next, s", "ratio", "peak, GB"], rows))
    return found


def main(argv=None) -> int:
    """Measure the embedded simulators and 21cmFAST in turn."""
    parser = side_by_side.parser(__doc__, rounds=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--cells", type=int, default=50, help="cells along a side of the boxes (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="processor time of the simulations after the first, at least"
    )
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
