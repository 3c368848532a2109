"""`vlarl doctor`: is this machine fit, and what to install where it is not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vlarl.cli.options import parse, print_json
from vlarl.doctor import run_checks


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Checks Python, packages, rendering, memory and disk; exits with 3 if a system library is missing, 2 if else."""

    json: bool = False
    """Print the checks as JSON."""


def main(command: str, argv: Sequence[str]) -> int:
    """Prints the checks; the exit code says whether all passed."""
    options = parse(DoctorOptions, argv, command)
    checks = run_checks()
    if options.json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
            if not check.ok:
                print(f"     fix: {check.fix}")
    return max((check.exit_code for check in checks), default=0)
