"""Errors that a user can act on, and the exit codes a shell sees."""

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_USER_ERROR = 2
EXIT_MISSING_SYSTEM_LIBRARY = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Bad input: the message names the bad value and the fix. The command line prints it without a traceback."""

    exit_code = EXIT_USER_ERROR


class MissingSystemLibraryError(UserError):
    """A library that pip cannot install is missing; the message is the install line."""

    exit_code = EXIT_MISSING_SYSTEM_LIBRARY


class NonFiniteError(UserError):
    """A loss or gradient became NaN or infinite; the last good checkpoint is kept."""

    exit_code = 4


def unknown_name(kind: str, name: object, known: Iterable[object]) -> UserError:
    """Builds the error for an unknown `kind`, with the nearest known name and the whole list."""
    names = [str(k) for k in known]
    nearest = get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"unknown {kind} {str(name)!r}.{hint} Known: {', '.join(names)}")


def check_names(kind: str, names: Iterable[object], known: Iterable[object]) -> None:
    """Raises unknown_name for the first of `names` that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
