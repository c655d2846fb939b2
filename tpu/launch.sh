#!/usr/bin/env bash
# Starts one `rational` command on every worker of every slice and comes back at once.
#
#   bash tpu/launch.sh curate configs/llama3.1-8b-lora.yaml run=/mnt/rational/llama \
#     curate.prompts=/mnt/rational/prompts.jsonl "sample.suites=[/mnt/rational/test.jsonl]"
#   bash tpu/launch.sh train configs/llama3.1-8b-lora.yaml run=/mnt/rational/llama
#   bash tpu/launch.sh --lead export configs/llama3.1-8b-lora.yaml run=/mnt/rational/llama
#   bash tpu/launch.sh --dry-run train ...
#
# The files of the first lie on the bucket: gcloud storage cp prompts.jsonl test.jsonl gs://my-bucket/
#
# `train`, `curate` and `sample` work on all hosts together. The other verbs work on one: on a single host start them as
# they are, on a pod with --lead, which runs them on worker 0 of the first slice and its chips alone. A job that is at
# work already is left alone. Exit code 75 of `rational` (the machine is being taken, a store is away) starts it again
# where the machine stays.
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
lead=
option() {
  if [ "$1" = --lead ]; then lead=1; else die "unknown option $1; see $0 --help"; fi
}
begin "$@"
[ ${#rest[@]} -gt 0 ] || die "what shall run? such as: bash tpu/launch.sh curate my.yaml run=/mnt/rational/my"

start="bash rational/tpu/worker.sh start"
if [ -n "$HF_TOKEN_SECRET" ]; then start+=" --secret $(printf '%q' "$HF_TOKEN_SECRET")"; fi
if [ -n "$lead" ]; then
  again on "$(first_node)" 0 "$start --alone --$(printf ' %q' "${rest[@]}")" || die "it could not be started; is it prepared (tpu/prepare.sh)?"
  exit 0
fi
for node in $(nodes); do
  again on "$node" all "$start --$(printf ' %q' "${rest[@]}")" || die "it could not be started on $node; is it prepared (tpu/prepare.sh)?"
done
