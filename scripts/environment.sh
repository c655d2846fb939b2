# Sourced by the scripts beside it: a virtual environment in .venv with this package in it.
#
# Settings, all optional:
#   RATIONAL_PYTHON          the Python to make the environment with (3.11 to 3.13)
#   PIP_EXTRA_INDEX_URL ...  pip's own variables; a CPU-only torch index saves gigabytes on Linux
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$root/.venv
python=$environment/bin/python

# The Pythons that all dependencies have builds for.
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

find_python() {
  local candidate
  for candidate in ${RATIONAL_PYTHON:+"$RATIONAL_PYTHON"} python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c "$supported" >/dev/null 2>&1; then
      printf '%s' "$candidate"
      return
    elif [ "$candidate" = "${RATIONAL_PYTHON:-}" ]; then
      die "RATIONAL_PYTHON=$candidate is not a working Python 3.11, 3.12 or 3.13"
    fi
  done
  die "no Python 3.11, 3.12 or 3.13 found; install one, or set RATIONAL_PYTHON to where it is"
}

# A digest of everything that decides what is installed; the place counts, since the installation points to it.
wanted() {
  "$python" - "$1" "$root" <<'EOF'
import hashlib, pathlib, sys
extra, root = sys.argv[1:]
parts = [extra, root, sys.version] + [pathlib.Path(root, f).read_text() for f in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256("\0".join(parts).encode()).hexdigest())
EOF
}

# Runs "$@" with its output in a log, showing how long it has taken; its last lines are shown if it fails.
with_clock() {
  local log=$environment/install.log start=$SECONDS shown=0 child status=0
  "$@" >"$log" 2>&1 &
  child=$!
  # Bash starts background commands deaf to Ctrl-C.
  trap 'kill "$child" 2>/dev/null; printf "\nstopped; run the same command again\n" >&2; exit 130' INT TERM
  while kill -0 "$child" 2>/dev/null; do
    sleep 1
    if [ -t 1 ]; then
      printf '\r  %d:%02d' $(((SECONDS - start) / 60)) $(((SECONDS - start) % 60))
    elif [ $((SECONDS - start - shown)) -ge 30 ]; then
      shown=$((SECONDS - start))
      say "  $shown s"
    fi
  done
  wait "$child" || status=$?
  trap - INT TERM
  if [ -t 1 ]; then printf '\r        \r'; fi
  if [ "$status" -ne 0 ]; then
    tail -n 15 "$log" >&2
    die "this failed: $* (all of its output: $log)"
  fi
  say "  done in $((SECONDS - start)) s"
}

# prepare_environment [EXTRA]: makes .venv and installs the package with the extra, unless that has been done.
prepare_environment() {
  local extra=${1:-} base stamp
  if [ -e "$environment" ] && ! "$python" -c "$supported" >/dev/null 2>&1; then
    say "The environment in .venv has no working Python 3.11 to 3.13; making a new one."
    rm -rf "$environment"
  fi
  if [ ! -e "$environment" ]; then
    base=$(find_python) || exit 2
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$base cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
    say "Making a virtual environment in .venv with $("$base" --version) (some seconds)"
    "$base" -m venv "$environment" || die "no virtual environment could be made in $environment"
  fi
  stamp=$environment/installed${extra:+-$extra}
  if [ "$(cat "$stamp" 2>/dev/null)" = "$(wanted "$extra")" ]; then
    return
  fi
  # One whose making was stopped has none yet, nor has one that uv made.
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null ||
    die "the environment in .venv has no pip and cannot get it; delete .venv and run the same command again"
  if [ -n "$extra" ]; then
    say "Installing the package and what its tests need, torch among it, into .venv (once; about 2 to 8 minutes)"
  else
    say "Installing the package and what it needs into .venv (once; about 1 to 4 minutes)"
  fi
  with_clock "$python" -m pip install --disable-pip-version-check --no-input \
    --constraint "$root/constraints.txt" --editable "$root${extra:+[$extra]}"
  wanted "$extra" >"$stamp"
}
