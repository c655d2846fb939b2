#!/usr/bin/env bash
# Makes the README's picture from a finished run's report. Needs Chromium.
#
#   bash scripts/readme/screenshot.sh runs/demo/report/index.html
set -euo pipefail
page=$(realpath "$1")
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking \
  --user-data-dir="$profile" --window-size=1200,1500 \
  --screenshot="$(dirname "${BASH_SOURCE[0]}")/report.png" "file://$page"
