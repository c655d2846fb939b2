#!/usr/bin/env bash
# The test suite, with its environment and installation. Slow tests are left to scripts/test_slow.sh.
#
#   bash scripts/test.sh                  about 20 minutes on two cores, after the installation
#   bash scripts/test.sh tests/hub -x     arguments go to pytest
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment test
cd "$root"
say "Running the tests: about 20 minutes on two cores"
# Compiling dominates and a file shares its models, so files go to processes as a whole.
exec "$python" -m pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile "$@"
