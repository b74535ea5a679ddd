#!/bin/sh
# Stands in front of each rank's command: rank.sh COMMAND... gives it its core and its share.
rank=${OMPI_COMM_WORLD_RANK:?is not set: not started by Open MPI}
while read -r group; do
    echo $$ >"$group/cgroup.procs" || exit 1
done <"$MPITILE_EMULATION/rank-$rank.groups"
exec taskset --cpu-list "$(cat "$MPITILE_EMULATION/rank-$rank.core")" "$@"
