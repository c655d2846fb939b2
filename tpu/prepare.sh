#!/usr/bin/env bash
# Brings this checkout's last commit to every worker, installs it there, and mounts the bucket at /mnt/rational.
#
#   bash tpu/prepare.sh
#   bash tpu/prepare.sh --dry-run
#
# What is not committed does not travel. Run it again after a commit; what is installed already is left alone, and so are
# a worker with a job at work, and what runs have left in the checkout there.
# shellcheck source=tpu/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
begin "$@"
[ ${#rest[@]} -eq 0 ] || die "${rest[0]}: prepare.sh takes no arguments; see --help"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/rational.tgz
git -C "$root" archive --format=tar.gz --output="$archive" HEAD || die "$root is no git checkout with a commit"
[ -z "$(git -C "$root" status --porcelain --untracked-files=no)" ] || say "note: changes that are not committed stay here"

# What the last commit had goes, by the list of its files; whatever else lies in the checkout, such as runs/, stays.
unpack="if [ -f rational/tpu/worker.sh ] && bash rational/tpu/worker.sh busy; then exit 0; fi; \
tar -tzf rational.tgz >rational.unpacked && mkdir -p rational && touch rational.files && \
grep -v '/\$' rational.files | tr '\n' '\0' | (cd rational && xargs -0 rm -f --) && \
mv rational.unpacked rational.files && tar -xzf rational.tgz -C rational && \
bash rational/tpu/worker.sh prepare $(printf '%q' "$BUCKET")"
for node in $(nodes); do
  say "preparing $node (some minutes the first time)"
  ssh_flags
  again tpus tpu-vm scp "$archive" "$node:rational.tgz" --worker=all ${flags[@]+"${flags[@]}"} ||
    die "the code could not be copied to $node; is it there (tpu/create.sh)?"
  again on "$node" all "$unpack" || die "a worker of $node could not be prepared; its messages are above"
done
