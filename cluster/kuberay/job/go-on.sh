#!/usr/bin/env bash
# go-on.sh JOB... NAME CONFIG [key=value ...]: begin the run NAME under /shared/runs, or go on with it from its last checkpoint.
# The job is two words, such as `train tgrpo`.
set -euo pipefail
job=("$1" "$2") name=$3
shift 3
runs=${SQUALL_RUNS:-/shared/runs}
if [[ -f $runs/$name/config.yaml ]]; then
    exec squall "${job[@]}" "$runs/$name/config.yaml" --resume
fi
exec squall "${job[@]}" "$@" "name=$name" "output=$runs"
