#!/usr/bin/env bash
# The whole pipeline on the small model in the package: environment, installation, `rational demo`.
#
#   bash scripts/demo.sh                         about 6 minutes on two cores, after the installation
#   bash scripts/demo.sh run=runs/again seed=1   arguments go to `rational demo`
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment
say "Running the demo: about 6 minutes on two cores the first time, seconds when it is finished"
exec "$python" -m rational_jax.cli demo "$@"
