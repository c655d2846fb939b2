#!/usr/bin/env bash
# What the other scripts run on a TPU VM; not meant to be called by hand, though nothing forbids it.
#
#   worker.sh prepare [gs://BUCKET]                      installs the checkout it lies in, mounts the bucket
#   worker.sh start [--alone] [--secret NAME] -- WORDS   `rational WORDS` in the background, unless one is at work
#   worker.sh busy                                       whether a job is at work
#   worker.sh follow                                     its log until it ends; 0 done, 10 failed, 11 never started
#
# A job lives in ~/rational-run: `log`, `pid`, and `code` once it has ended.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=${RATIONAL_ENVIRONMENT:-$HOME/rational-env}
job=${RATIONAL_JOB:-$HOME/rational-run}
mount=/mnt/rational
RESTARTS=${RATIONAL_RESTARTS:-3} # after what another worker's death may have caused
PAUSE=${RATIONAL_PAUSE:-60}      # seconds before that, in which the others notice too

die() {
  printf 'error on %s: %s\n' "$(hostname)" "$1" >&2
  exit "${2:-12}"
}

prepare() {
  local bucket=${1#gs://} wanted
  wanted=$(cat "$checkout/pyproject.toml" "$checkout/constraints.txt" | sha256sum)
  if [ "$(cat "$environment/installed" 2>/dev/null)" != "$wanted" ]; then
    # The system's Python is 3.10 on most TPU images; uv brings its own.
    python3 -m pip install --quiet --user uv || die "uv could not be installed"
    python3 -m uv venv --quiet --clear --python 3.12 "$environment" || die "no Python 3.12"
    python3 -m uv pip install --quiet --python "$environment/bin/python" --constraint "$checkout/constraints.txt" \
      --editable "${checkout}[tpu]" || die "the package could not be installed"
    echo "$wanted" >"$environment/installed"
  fi
  if [ -z "$bucket" ] || mountpoint -q "$mount"; then return; fi
  [ "$(gcloud storage buckets describe "gs://$bucket" '--format=value(hierarchical_namespace.enabled)')" = True ] ||
    die "gs://$bucket has no hierarchical namespace, so its folders cannot be renamed; see tpu/settings.env.example"
  if ! command -v gcsfuse >/dev/null; then
    local keys=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
    curl -fsSL "$site/doc/apt-key.gpg" | sudo tee "$keys" >/dev/null
    echo "deb [signed-by=$keys] $site gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    { sudo apt-get update -qq && sudo apt-get install -qqy gcsfuse; } || die "gcsfuse could not be installed"
  fi
  sudo mkdir -p "$mount" && sudo chown "$USER" "$mount"
  # Every worker has to see at once what another one wrote.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$bucket" "$mount" ||
    die "gs://$bucket could not be mounted; may the workers' service account write to it?"
}

at_work() {
  if [ ! -f "$job/pid" ] || [ -f "$job/code" ]; then return 1; fi
  case $(ps -o stat= -p "$(cat "$job/pid")") in '' | Z*) return 1 ;; esac # gone, or killed and not yet buried
}

busy() {
  at_work || return 1
  echo "$(hostname): a job is at work, nothing is changed"
}

start() {
  if busy; then return; fi
  mkdir -p "$job"
  rm -f "$job/code" "$job/pid"
  setsid nohup bash "$checkout/tpu/worker.sh" keep "$@" >>"$job/log" 2>&1 </dev/null &
  echo $! >"$job/pid"
  echo "$(hostname): started"
}

keep() {
  local secret='' restarts=0 begun code
  while [ "$1" != -- ]; do
    case $1 in
    --secret)
      secret=$2
      shift
      ;;
    --alone)
      # One process on this host's chips, whatever slice they are part of.
      export TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 TPU_VISIBLE_CHIPS=0,1,2,3
      # And one for JAX, which else finds the other hosts in the machine's metadata and waits for them.
      export JAX_COORDINATOR_ADDRESS=localhost:8476 JAX_NUM_PROCESSES=1 JAX_PROCESS_ID=0
      ;;
    esac
    shift
  done
  shift
  if [ -n "$secret" ]; then
    HF_TOKEN=$(gcloud secrets versions access latest "--secret=$secret") || {
      echo 12 >"$job/code"
      die "the secret $secret cannot be read; may the workers' service account do so?"
    }
    export HF_TOKEN
  fi
  cd "$checkout"
  while true; do
    echo "$(date -u +%FT%TZ) $(hostname): rational $*"
    code=0 begun=$SECONDS
    "$environment/bin/rational" "$@" || code=$?
    case $code in
    0 | 2 | 130) break ;; # done; something to mend; stopped
    esac
    # 75 is saved, or a store was out of reach, and goes on; what it ends with at once, again and again, may be for good.
    if [ "$code" -ne 75 ] || [ $((SECONDS - begun)) -lt "$PAUSE" ]; then
      restarts=$((restarts + 1))
      if [ "$restarts" -gt "$RESTARTS" ]; then break; fi
      echo "ended with $code; start $restarts of $RESTARTS in $PAUSE seconds"
    fi
    sleep "$PAUSE"
  done
  echo "$code" >"$job/code"
}

follow() {
  [ -f "$job/pid" ] || exit 11
  if at_work; then
    tail -n 40 -F "--pid=$(cat "$job/pid")" "$job/log" 2>/dev/null
  else
    tail -n 40 "$job/log"
  fi
  # One that was killed has left no code.
  [ "$(cat "$job/code" 2>/dev/null)" = 0 ] || exit 10
}

verb=${1:-}
case $verb in
prepare | start | keep | follow | busy)
  shift
  if [ "$verb" = prepare ]; then set -- "${1:-}"; fi
  "$verb" "$@"
  ;;
*)
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
  [ "$verb" = --help ] || exit 2
  ;;
esac
