#!/usr/bin/env bash
# Keeps a command going until it is done, on as many machines one after the other as that takes: what is preempted is
# deleted and asked for again, prepared, and the same command is started, which continues where it was saved.
#
#   bash tpu/resume.sh curate configs/llama3.1-8b-lora.yaml run=/mnt/rational/llama \
#     curate.prompts=/mnt/rational/prompts.jsonl "sample.suites=[/mnt/rational/test.jsonl]"
#   bash tpu/resume.sh train configs/llama3.1-8b-lora.yaml run=/mnt/rational/llama
#   bash tpu/resume.sh --dry-run train ...
#
# The files of the first lie on the bucket: gcloud storage cp prompts.jsonl test.jsonl gs://my-bucket/
# The machines stay for the next command, and cost money until tpu/delete.sh has run.
#
# It can itself be stopped and started at any time; a job that is at work is only followed. The run has to be on the
# bucket (run=/mnt/rational/...), or nothing is left to continue from. TRIES is how often it asks for new machines.
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
lead=()
option() {
  if [ "$1" = --lead ]; then lead=(--lead); else die "unknown option $1; see $0 --help"; fi
}
begin "$@"
[ ${#rest[@]} -gt 0 ] || die "what shall run? such as: bash tpu/resume.sh curate my.yaml run=/mnt/rational/my"

# verb NAME WORDS ...: another script beside this one, with the same settings.
verb() {
  local name=$1
  shift
  TPU_DRY_RUN=$dry_run bash "$here/$name.sh" --settings "$settings" "$@"
}

# The end, where the machines are left.
leave() {
  [ -n "$dry_run" ] || say "$NAME stays for the next command and costs money until bash tpu/delete.sh has run"
  exit "$1"
}

for ((try = 1; try <= TRIES; try++)); do
  found=$(state)
  if [ "$found" = GONE ]; then
    say "$NAME was preempted or failed; deleting what is left of it"
    verb delete
  fi
  code=0
  verb create || code=$?
  if [ "$code" -eq 0 ]; then
    { verb prepare && verb launch ${lead[@]+"${lead[@]}"} -- "${rest[@]}" && verb follow; } || code=$?
  fi
  [ "$code" -ne 0 ] || leave 0
  # A machine can be taken in the middle of any of these, which then fail in their own ways.
  found=$(state)
  if [ "$code" -ne "$NO_MACHINE" ]; then
    case $found in GONE) ;; MISSING) exit "$code" ;; *) leave "$code" ;; esac
  fi
  say "no machine (try $try of $TRIES)"
  if [ "$try" -lt "$TRIES" ]; then sleep "$POLL"; fi
done
say "gave up after $TRIES tries; everything that was saved is on the bucket, the same command goes on"
exit "$NO_MACHINE"
