"""How haloes shine, as the flags of ``apps/simulate.py lines`` and ``apps/convert_haloes.py`` say it."""


def halo_luminosity(arguments, lines):
    """`HaloLuminosity` of the flags.

    Args:
        arguments: What was parsed: ``relation``, ``luminosity_scatter`` in dex and ``luminosity_table``, files of the
            layout of `keras_cosmo.data.formats.luminosity_table`.
        lines: Names of the lines that are simulated.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If a table is damaged, or of another line.
    """
    from keras_cosmo.simulations.halo_luminosity import HaloLuminosity

    return HaloLuminosity(
        relation=arguments.relation,
        scatter=arguments.luminosity_scatter,
        tables=tuple(_table(path, lines) for path in arguments.luminosity_table),
    )


def _table(path, lines):
    """A luminosity table as the simulator takes it, after dust."""
    from keras_cosmo.data.formats.luminosity_table import read_luminosity_table
    from keras_cosmo.simulations.emission_lines import LINES
    from keras_cosmo.simulations.halo_luminosity import LuminosityTable

    bins = read_luminosity_table(path)
    if bins.line not in lines:
        raise ValueError(f"{path}: expected a table of one of the lines {', '.join(lines)}, got {bins.line!r}.")
    passed = 1.0 if bins.dust else 10.0 ** (-LINES[bins.line].attenuation / 2.5)
    return LuminosityTable(
        log10_mass_low=bins.log10_mass_low,
        log10_mass_high=bins.log10_mass_high,
        mean=bins.mean * passed,
        standard_deviation=bins.standard_deviation * passed,
        line=bins.line,
        redshift=bins.redshift,
    )
