#!/bin/sh
# Open MPI's way to another device, in place of ssh: agent.sh DEVICE COMMAND...
device=$MPITILE_EMULATION/$1
shift
while read -r group; do
    echo $$ >"$group/cgroup.procs" || exit 1
done <"$device.groups"
exec nsenter --target "$(cat "$device.pid")" --mount --uts --ipc --net sh -c "$*"
