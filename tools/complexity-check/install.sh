#!/usr/bin/env bash
# Makes a virtual environment with edgekd and the packages that its complexity gate needs.
#
# Usage: install.sh VENV
#   CHECK_PYTHON       the interpreter, python3 by default
#   CHECK_REQUIREMENT  what pip installs, by default the checkout around this script with its "check" extra
set -euo pipefail
venv=${1:?usage: install.sh VENV}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
requirement=${CHECK_REQUIREMENT:-"$root[check]"}

# -I: modules of the checked-out repository are not imported
"${CHECK_PYTHON:-python3}" -I -m venv "$venv"
"$venv/bin/python" -I -m pip install --quiet --disable-pip-version-check "$requirement"
"$venv/bin/python" -I -c 'import sys; from edgekd.cli import app; print("edgekd on Python", sys.version.split()[0])'
