"""Say what is installed, what works, and what to do about the rest.

    python apps/doctor.py
    python apps/doctor.py --json         the same for programs, and for reports of errors

Looks at versions, conflicting packages and settings, cores, memory, disk, GPUs, one timed convolution and the optional
extras; takes some ten seconds, most of them to import TensorFlow. Exit status: 0 everything that the core needs works,
1 something is broken (the last line says what), 2 wrong usage.
"""

import sys


def main(argv=None) -> int:
    """Examine and print; returns the exit status."""
    try:
        from keras_cosmo.tasks.presets import Parser
    except ModuleNotFoundError as error:
        print(
            f"broken keras_cosmo: {sys.executable} has no module {error.name!r}\n       -> pip install . in the clone."
        )
        return 1
    parser = Parser(prog="doctor.py", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    arguments = parser.parse_args(argv)
    import dataclasses
    import json

    from keras_cosmo.tasks.installation import examine

    findings = examine()
    broken = [finding.subject for finding in findings if finding.status == "broken"]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        print("\n".join(map(str, findings)))
        print(f"\nBroken: {', '.join(broken)}." if broken else "\nEverything that the core needs works.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
