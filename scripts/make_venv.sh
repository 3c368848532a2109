#!/bin/sh
# make_venv.sh DIR [PYTHON]: makes a virtual environment with PYTHON, or the first Python 3.11 to 3.13 that is found.
# Exit code 3: none is installed, or its venv module is not; the message says what to install.
set -eu
folder=$1
shift

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

for python in "${@:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$python" ] && is_supported "$python"; then
        if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            echo "error: $python cannot make virtual environments. Install: sudo apt-get install -y python$version-venv" >&2
            exit 3
        fi
        echo "$folder is made with $("$python" --version)"
        exec "$python" -m venv --clear "$folder"
    fi
    if [ $# -gt 0 ]; then
        echo "error: $1 is not a Python 3.11, 3.12 or 3.13" >&2
        exit 2
    fi
done
echo "error: vlarl needs Python 3.11, 3.12 or 3.13, and none is on the PATH." >&2
echo "Install one (sudo apt-get install -y python3 python3-venv, on a Debian 12, Ubuntu 24.04 or newer)," >&2
echo "or name it: make PYTHON=/path/to/python3.12 ..." >&2
exit 3
