"""`vlarl doctor`: is this machine fit, and what to install where it is not."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from vlarl.cli.options import parse, print_json
from vlarl.doctor import Check, run_checks, run_libero_checks


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Checks Python, packages, rendering, memory and disk; exits with 3 if a system library is missing, 2 if else."""

    libero: bool = False
    """Compare physics and frames with upstream's LIBERO too, on one task per suite (a few minutes)."""
    json: bool = False
    """Print the checks as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints the checks; the exit code says whether all passed."""
    options = parse(DoctorOptions, argv, command)
    checks = []
    for check in _run(options):
        checks.append(check)
        if not options.json:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}", flush=True)
            if not check.ok:
                print(f"     fix: {check.fix}", flush=True)
    if options.json:
        print_json([asdict(check) for check in checks])
    return max((check.exit_code for check in checks), default=0)


def _run(options: DoctorOptions) -> Iterator[Check]:
    checks = run_checks()
    yield from checks
    # Without rendering the simulator cannot even be loaded.
    if options.libero and all(check.ok for check in checks if check.name in ("packages", "rendering")):
        yield from run_libero_checks()
