#!/usr/bin/env bash
# Sets everything up, draws a small data set, trains a small detector on it with 4 MPI ranks
# and looks at what it has learnt:
#
#     bash jobs/quickstart.sh
#
# jobs/setup.sh lists the variables that change the set-up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. jobs/env.sh
. jobs/setup.sh

out=runs/quickstart
weights=$out/final.weights

set_up mpi rich plot

echo; echo "-- drawing photographs of shapes"
python jobs/draw_shapes.py "$out/data" --images 400 --size 192 --seed 1

echo; echo "-- training on 4 ranks, each with a quarter of every image"
mpirun -np 4 mpitile train jobs/shapes.toml

echo; echo "-- how good it is on images that it has not seen"
mpirun -np 4 mpitile eval jobs/shapes.toml --weights "$weights"

echo; echo "-- what it sees in one of them"
image=$(tail -n 1 "$out/data/valid.txt")
mpitile detect "$out/data/$image" --cfg jobs/cfg/shapes-tiny.cfg --weights "$weights" \
    --names "$out/data/shapes.names" --out "$out"

echo; echo "-- what became of the run, on one page"
mpitile report "$out"

picture=$out/$(basename "$image" .png).detected.png
awk -F, 'NR == 2 { first = $2 } { step = $1; last = $2 }
    END { printf "\nThe loss fell from %.1f to %.1f in %d steps.\n", first, last, step }' \
    "$out/metrics.csv"
cat <<END
    report: curves, time, memory, plan    $out/report.html
    loss, speed and memory of each step   $out/metrics.csv
    trained weights                       $weights
    an image with the boxes found         $picture
For your own data copy jobs/shapes.toml (README.md explains it), and then
    . .venv/bin/activate && . jobs/env.sh && mpirun -np 4 mpitile train my.toml
END
