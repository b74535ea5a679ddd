#!/usr/bin/env bash
# Whole networks, tiled over real ranks against one rank, in float32: the largest differences
# relative to each tensor's largest entry. Takes some minutes; wants mpitile and mpirun in PATH.
#
#     bash tests/bench/exactness.sh
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. jobs/env.sh

status=0
prove() {
    local ranks=$1
    shift
    mpirun -np "$ranks" mpitile check "$@" --dtype float32 || status=1
}

for grid in 2x2 2x3; do
    ranks=$((${grid%x*} * ${grid#*x}))
    for groups in 0 0,4,8,12 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15; do
        prove "$ranks" jobs/cfg/y16.cfg --grid "$grid" --groups "$groups"
    done
done
for network in yolov2-tiny yolov2; do
    prove 2 "jobs/cfg/$network.cfg" --grid 2x1 --size 224x224 --batch 2
    prove 4 "jobs/cfg/$network.cfg" --grid 2x2 --size 224x224 --batch 2
done
exit "$status"
