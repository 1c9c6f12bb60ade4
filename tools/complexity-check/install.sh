#!/usr/bin/env bash
# Makes a virtual environment with edgekd and what its complexity gate needs, nothing else.
#
# Usage: install.sh VENV
#   CHECK_PYTHON       the interpreter, python3 by default
#   CHECK_REQUIREMENT  what pip installs, by default the checkout around this script with its "check" extra
set -euo pipefail
venv=${1:?usage: install.sh VENV}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
requirement=${CHECK_REQUIREMENT:-"$root[check]"}

# -I: a checked-out repository cannot slip in modules of its own
"${CHECK_PYTHON:-python3}" -I -m venv "$venv"
"$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check "$requirement"
"$venv/bin/python" -I -c 'import sys; from edgekd.cli import app; print("edgekd on Python", sys.version.split()[0])'
