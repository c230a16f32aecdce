#!/usr/bin/env bash
# Print the first Python of version 3.11 or newer; PYTHON=... in the environment names one.
set -euo pipefail

for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null \
        && "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        command -v "$python"
        exit 0
    fi
done
found=$(python3 --version 2>&1 || true)
echo "error: Python 3.11 or newer with venv is needed (python3 is: ${found:-not there})." >&2
echo "       Debian or Ubuntu: apt-get install python3 python3-venv; or name one: make PYTHON=/path/to/python3" >&2
exit 1
