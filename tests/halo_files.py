"""Halo catalogues and parameter files as PINOCCHIO writes them, byte by byte, small and made up, for the tests."""

import struct

import numpy as np

SIDE, HUBBLE, OMEGA_M, CELLS, SMALLEST = 100.0, 0.7, 0.25, 64, 10  # side in Mpc/h
PARTICLE = 2.775499745e11 * OMEGA_M * (SIDE / CELLS) ** 3  # Msun/h


def make_haloes(count=300, seed=1):
    """Haloes in Msun/h and Mpc/h, with values that ascii and single precision hold."""
    generator = np.random.default_rng(seed)
    particles = np.concatenate([[SMALLEST] * min(count, 3), generator.zipf(2.0, max(count - 3, 0)) + SMALLEST - 1])
    final = np.round(generator.uniform(0.0, SIDE - 0.01, (count, 3)), 2)
    return {
        "group": np.arange(1, count + 1) * 1000,
        "mass": np.minimum(particles, 10**4) * PARTICLE,
        "initial": np.round(np.mod(final + generator.normal(0.0, 3.0, (count, 3)), SIDE - 0.01), 2),
        "final": final,
        "velocity": np.round(generator.normal(0.0, 200.0, (count, 3)), 2),
        "particles": np.minimum(particles, 10**4),
    }


def file_name(redshift=2.0, run="test"):
    return f"pinocchio.{redshift:6.4f}.{run}.catalog.out"


def write_parameters(folder, *, run="test", seed=7, name=None, changes=(), without=()):
    """A parameter file with comments, as distributed with PINOCCHIO."""
    values = {
        "RunFlag": run, "OutputList": "outputs", "BoxSize": SIDE, "BoxInH100": "", "GridSize": CELLS,
        "RandomSeed": seed, "Omega0": OMEGA_M, "OmegaLambda": 0.75, "Hubble100": HUBBLE, "Sigma8": 0.8,
        "PrimordialIndex": 0.96, "OutputInH100": "", "NumFiles": 1, "MinHaloMass": SMALLEST, **dict(changes),
    }  # fmt: skip
    lines = ["# This is an example parameter file", "", "% FixedIC                 % commented out"]
    lines += [f"{key:<20} {value}    % what it is" for key, value in values.items() if key not in without]
    path = folder / (name or f"parameters_{run}")
    path.write_text("\n".join(lines) + "\n")
    return path


def split(haloes, pieces):
    return [{key: value[piece] for key, value in haloes.items()} for piece in pieces]


def thirds(haloes):
    """Three tasks; the second has no haloes."""
    half = len(haloes["mass"]) // 2
    return split(haloes, (slice(0, half), slice(0, 0), slice(half, None)))


def write_ascii(folder, haloes, *, redshift=2.0, run="test", light=False, unit="/h", header=None, parts=1):
    base = folder / file_name(redshift, run)
    for part in range(parts):
        path = base if parts == 1 else base.with_name(f"{base.name}.{part}")
        lines = [
            f"# Group catalog for redshift {redshift:f} and minimal mass of {SMALLEST} particles",
            "#    1) group ID", f"#    2) group mass (Msun{unit})", f"# 3- 5) initial position (Mpc{unit})",
            f"# 6- 8) final position (Mpc{unit})", "# 9-11) velocity (km/s)",
            *([] if light else ["#   12) number of particles"]), "#",
        ] if header is None else header  # fmt: skip
        with path.open("w") as file:
            file.writelines(line + "\n" for line in lines)
            for i in range(part, len(haloes["mass"]), parts):
                row = f" {haloes['group'][i]:12d} {haloes['mass'][i]:13.6e}"
                for key in ("initial", "final", "velocity"):
                    row += "".join(f" {value:10.2f}" for value in haloes[key][i])
                file.write(row + ("" if light else f" {haloes['particles'][i]:12d}") + "\n")
    return base


def _record(haloes, i, length, order, real):
    """One record by struct, padded to its length."""
    content = struct.pack("<Q", haloes["group"][i])
    for key in order:
        if key == "particles":
            content += struct.pack("<i", haloes["particles"][i])
        else:
            content += struct.pack(f"<{np.size(haloes[key][i])}{real}", *np.atleast_1d(haloes[key][i]))
    return content.ljust(length, b"\0")


SLICED = {
    96: ("d", ("mass", "initial", "final", "velocity", "particles")),
    56: ("f", ("mass", "initial", "final", "velocity", "particles")),
    40: ("f", ("mass", "final", "velocity", "particles")),
}
JOINED = {
    96: ("d", ("mass", "final", "velocity", "initial", "particles")),
    88: ("d", ("mass", "final", "velocity", "initial")),
    64: ("d", ("mass", "final", "velocity")),
    56: ("f", ("mass", "final", "velocity", "initial", "particles")),
    48: ("f", ("mass", "final", "velocity", "initial")),
    40: ("f", ("mass", "final", "velocity")),
    36: ("f", ("mass", "final", "velocity")),
}


def write_sliced(folder, haloes, *, length=96, redshift=2.0, run="test", slices=1):
    """Version 4: each record between two markers, blocks of all tasks once per slice."""
    real, order = SLICED[length]
    tasks = thirds(haloes)
    content = struct.pack("<4i", 8, len(tasks), slices, 8)
    for number in range(slices):
        for task in tasks:
            chosen = range(number, len(task["mass"]), slices)
            content += struct.pack("<3i", 4, len(chosen), 4)
            for i in chosen:
                marker = struct.pack("<i", length)
                content += marker + _record(task, i, length, order, real) + marker
    path = folder / file_name(redshift, run)
    path.write_bytes(content)
    return path


def write_joined(folder, haloes, *, length=56, redshift=2.0, run="test", parts=1):
    """Version 5: all records of a task between two markers."""
    real, order = JOINED[length]
    base = folder / file_name(redshift, run)
    for part, share in enumerate(split(haloes, [slice(part, None, parts) for part in range(parts)])):
        tasks = thirds(share)
        content = struct.pack("<4i", 8, len(tasks), length, 8)
        for task in tasks:
            count = len(task["mass"])
            content += struct.pack("<3i", 4, count, 4)
            if count:
                marker = struct.pack("<i", count * length)
                records = b"".join(_record(task, i, length, order, real) for i in range(count))
                content += marker + records + marker
        path = base if parts == 1 else base.with_name(f"{base.name}.{part}")
        path.write_bytes(content)
    return base
