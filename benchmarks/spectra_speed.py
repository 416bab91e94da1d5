"""Power spectra of many maps, `keras_cosmo.statistics.spectra` against powerbox, maps per second of one thread.

    python benchmarks/spectra_speed.py [--sides 64 200] [--maps 200] [--seconds 2] [--rounds 2] [--json FILE]

Both sum the same Fourier modes into the same bins, in float64; the largest difference between the two spectra of a map
is printed, in units of its power. ``power`` is the spectrum of each map; ``comparison`` what a prediction is judged by:
both spectra and the cross spectrum of pairs of maps, for which powerbox is called three times. powerbox takes one map
at a time and finds its bins anew for each.
"""

import sys

import side_by_side

CELL_SIZE = 1.5
WHO = ("keras_cosmo", "powerbox")
KEYS = {"power_per_second": "power", "comparison_per_second": "comparison"}


def measure(request: dict) -> dict:
    """Maps per processor second, and the first map's spectrum."""
    import numpy as np

    from keras_cosmo.statistics.spectra import compare_spectra, power_spectrum, wavenumber_edges

    side, count = request["side"], request["maps"]
    first, second = np.random.default_rng(0).standard_normal((2, count, side, side)).astype("float32")
    # Edges that no mode lies on: powerbox leaves modes on the last edge out.
    edges = wavenumber_edges((side, side), CELL_SIZE) * (1 + 1e-6)
    if request["who"] == "powerbox":
        from powerbox import get_power

        options = {"boxlength": side * CELL_SIZE, "bins": edges, "dimensionless": False, "ignore_zero_mode": True}
        # It needs more than enough time for a part of the maps.
        count = min(count, 20)

        def power():
            return np.array([get_power(one, **options).power for one in first[:count].astype(float)])

        def comparison():
            pairs = zip(first[:count].astype(float), second[:count].astype(float), strict=True)
            return [
                [get_power(a, deltax2=b, **options).power for a, b in ((one, one), (other, other), (one, other))]
                for one, other in pairs
            ]

    else:

        def power():
            return power_spectrum(first, CELL_SIZE, edges).power

        def comparison():
            return compare_spectra(first, second, CELL_SIZE, edges)

    seconds = request["seconds"]
    return {
        "power_per_second": count / side_by_side.fastest(power, seconds),
        "comparison_per_second": count / side_by_side.fastest(comparison, seconds),
        "first": power()[0].tolist(),
    }


def compare(arguments) -> dict:
    """Measure both for every side and print the table."""
    who = list(WHO)
    if side_by_side.installed("powerbox") is None:
        print("powerbox is missing here (pip install powerbox): no reference, ours alone.")
        who.remove("powerbox")
    found, rows = {}, []
    for side in arguments.sides:
        common = {"side": side, "maps": arguments.maps, "seconds": arguments.seconds}
        requests = {name: {**common, "who": name} for name in who}
        results = side_by_side.alternate(__file__, requests, arguments.rounds)
        difference = None
        if len(who) == 2:
            one, other = (results[name][0]["first"] for name in who)
            difference = max(abs(a / b - 1) for a, b in zip(one, other, strict=True))
        for name in who:
            best = side_by_side.merged(results[name])
            row = [f"{name}, {side} x {side}"]
            for key in KEYS:
                row += [best[key], side_by_side.ratio(results, name, WHO[1], key)]
            rows.append([*row, difference if name == WHO[0] else None])
        found[side] = {"request": common, "rows": results, "difference": difference}
    heads = ["maps per second"]
    for name in KEYS.values():
        heads += [name, "ratio"]
    print()
    print(side_by_side.table([*heads, "difference"], rows))
    return found


def main(argv=None) -> int:
    """Measure ours and powerbox in turn."""
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 200], help="cells along a side of the maps")
    parser.add_argument("--maps", type=int, default=200, help="maps in one call of ours (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="processor time of one measurement, at least")
    return side_by_side.run(parser.parse_args(argv), measure, compare)


if __name__ == "__main__":
    sys.exit(main())
