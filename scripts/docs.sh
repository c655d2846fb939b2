#!/usr/bin/env bash
# The pages of the package's public names, made from their docstrings by pdoc.
#
#   bash scripts/docs.sh             into build/docs; open build/docs/index.html
#   bash scripts/docs.sh FOLDER
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment docs
exec "$python" "$root/scripts/docs.py" "${1:-$root/build/docs}"
