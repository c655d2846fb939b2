# Sourced by the verbs beside it: options, settings, and calls of gcloud.
# shellcheck shell=bash disable=SC2034
#
# Exit codes of all verbs: 0 done, 2 something for you to mend, 75 no machine now (try again, or use resume.sh).
set -euo pipefail

MEND=2
NO_MACHINE=75
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
names=(PROJECT ZONE NAME ACCELERATOR SLICES SPOT BUCKET HF_TOKEN_SECRET RUNTIME SERVICE_ACCOUNT NETWORK SUBNETWORK
  SSH_FLAGS WAIT_FOR POLL TRIES)

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit "$MEND"
}

# The comment at the top of the script is its help.
show_help() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
  exit 0
}

# begin "$@": takes --help, --dry-run and --settings, reads the settings, and leaves the other words in $rest.
begin() {
  local file=${TPU_SETTINGS:-$here/settings.env} name
  dry_run=${TPU_DRY_RUN:-}
  rest=()
  # What follows the first word that is no option belongs to it.
  while [ $# -gt 0 ] && [ ${#rest[@]} -eq 0 ]; do
    case $1 in
    -h | --help) show_help ;;
    --dry-run) dry_run=1 ;;
    --settings)
      [ $# -gt 1 ] || die "--settings needs a file"
      file=$2
      shift
      ;;
    --)
      shift
      rest=("$@")
      break
      ;;
    -*) option "$1" ;;
    *)
      rest=("$@")
      break
      ;;
    esac
    shift
  done
  [ -f "$file" ] || die "$file: no such file; copy $here/settings.env.example there and fill it in"
  declare -A given=()
  for name in "${names[@]}"; do
    if [ -n "${!name+set}" ]; then given[$name]=${!name}; fi
  done
  # shellcheck source=/dev/null
  source "$file"
  for name in "${!given[@]}"; do printf -v "$name" '%s' "${given[$name]}"; done
  for name in "${names[@]}"; do [ -n "${!name+set}" ] || printf -v "$name" '%s' ''; done
  for name in PROJECT ZONE NAME ACCELERATOR; do
    [ -n "${!name}" ] || die "$name is not set in $file"
  done
  SLICES=${SLICES:-1} POLL=${POLL:-30} TRIES=${TRIES:-20} WAIT_FOR=${WAIT_FOR:-6h}
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "SLICES=$SLICES in $file is no number of slices"
  # shellcheck disable=SC2153
  [[ $NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || die "NAME=$NAME in $file: use small letters, digits and -"
  case $BUCKET in '' | gs://?*) ;; *) die "BUCKET=$BUCKET in $file must look like gs://my-bucket" ;; esac
  settings=$file
  [ -n "$dry_run" ] || command -v gcloud >/dev/null || die "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
}

# What a verb does with options that are not everybody's; those that have some define it again.
option() { die "unknown option $1; see $0 --help"; }

# The software that a kind of TPU starts with.
runtime() {
  if [ -n "$RUNTIME" ]; then
    echo "$RUNTIME"
    return
  fi
  case $ACCELERATOR in
  v6e-*) echo v2-alpha-tpuv6e ;;
  v5p-*) echo v2-alpha-tpuv5 ;;
  v5litepod-*) echo v2-alpha-tpuv5-lite ;;
  v[234]-*) echo tpu-ubuntu2204-base ;;
  *) die "ACCELERATOR=$ACCELERATOR is not known here: set RUNTIME to the software version it needs" ;;
  esac
}

# The TPU VMs: one for each slice.
nodes() {
  local i
  if [ "$SLICES" -eq 1 ]; then
    echo "$NAME"
  else
    for ((i = 0; i < SLICES; i++)); do echo "$NAME-$i"; done
  fi
}

first_node() {
  local all
  mapfile -t all < <(nodes)
  echo "${all[0]}"
}

# tpus WORDS ...: gcloud compute tpus, in the project and zone; only shown where this is a dry run.
tpus() {
  local call=(gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE" --quiet)
  if [ -n "$dry_run" ]; then
    printf '%q ' "${call[@]}" && echo
  else
    "${call[@]}"
  fi
}

ssh_flags() {
  read -ra flags <<<"$SSH_FLAGS"
}

# on NODE WORKER COMMAND: runs it there; ends with its exit code, or 255 (or 1) where there is no connection.
on() {
  local flags
  ssh_flags
  tpus tpu-vm ssh "$1" "--worker=$2" "--command=$3" ${flags[@]+"${flags[@]}"}
}

# again WORDS ...: runs them up to five times; for what a dropped connection stops and a second time does no harm.
again() {
  local try code=0
  for try in 1 2 3 4 5; do
    code=0
    "$@" || code=$?
    # ssh ends with 255 and gcloud with 1 where they do not reach a machine; all else ran there and would fail again.
    if [ "$code" -ne 255 ] && [ "$code" -ne 1 ]; then return "$code"; fi
    say "that did not get through (try $try of 5)"
    if [ "$try" -lt 5 ]; then sleep "$POLL"; fi
  done
  return "$code"
}

# look GROUP NAME FIELD: what it is now, or MISSING; fails where gcloud cannot say, which may be gone the next time.
look() {
  local found errors said
  errors=$(mktemp)
  # Apart, because gcloud also warns there when it has an answer.
  if found=$(tpus "$1" describe "$2" "--format=value($3)" 2>"$errors"); then
    rm -f "$errors"
    echo "$found"
    return
  fi
  said=$(<"$errors")
  rm -f "$errors"
  case $said in
  *NOT_FOUND*) echo MISSING ;;
  *)
    say "gcloud says: ${said##*ERROR: }"
    return 1
    ;;
  esac
}

# looked WORDS ...: look, several times if need be; ends the program rather than guess.
looked() {
  again look "$@" || die "the state of $2 is unknown, so nothing was changed; mend what gcloud says, or try again later"
}

# WAITING (in line or being made), READY, GONE (preempted or failed; has to be deleted) or MISSING.
state() {
  local found node
  if [ -n "$dry_run" ]; then
    tpus queued-resources describe "$NAME" "--format=value(state.state)" >&2
    echo "${TPU_DRY_STATE:-MISSING}"
    return
  fi
  found=$(looked queued-resources "$NAME" state.state) || exit
  case $found in
  MISSING) echo MISSING ;;
  ACTIVE)
    # The request stays active for a while after its machines were taken.
    for node in $(nodes); do
      found=$(looked tpu-vm "$node" state) || exit
      case $found in
      READY) ;;
      PREEMPTED | TERMINATED | STOPPED | STOPPING | DELETING | MISSING)
        echo GONE
        return
        ;;
      *)
        echo WAITING
        return
        ;;
      esac
    done
    echo READY
    ;;
  SUSPENDED | SUSPENDING | FAILED | DELETING) echo GONE ;;
  *) echo WAITING ;;
  esac
}
