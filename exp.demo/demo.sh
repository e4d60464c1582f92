#!/usr/bin/env bash
# The whole method on generated scenes: two teachers (CPS), then the MGD student beside one that sees labels alone.
#   bash exp.demo/demo.sh [SEED]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seed=${1:-0}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
export PYTHON=$python OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export NGPUS=${NGPUS:-1} # these networks need no more
# Two trainings run side by side: these networks are too small to keep many threads busy.
cores=$("$python" -c 'import os; print(os.cpu_count() or 1)')
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 3 ? cores / 2 : 1))}

run() { echo "exp.demo/scenes32.$1/run-$seed"; }
train() { # NAME [override ...]; takes the place of the shell that it is called in, so that `end` reaches launch.sh
  local name=$1
  shift
  trap '' INT # Ctrl-C reaches all; a training shall end by SIGTERM, for which it saves
  exec bash "exp.demo/scenes32.$name/script.sh" train.seed="$seed" run.dir="$(run "$name")" "$@" \
    > >(trap '' HUP && exec sed -u "s/^/[$name] /") 2>&1
}
side_by_side() { wait "$1" && wait "$2"; }
end() { jobs -p | xargs -r kill 2>/dev/null || true; } # trainings finish their step and save
stop() { # STATUS
  end
  wait
  mkdir -p "${stopped%/*}"
  touch "$stopped"
  echo "stopped; to go on: bash exp.demo/demo.sh $seed"
  exit "$1"
}
stopped=$(run wide)/stopped
trap end EXIT # when one of two fails, the other ends too
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM

started=$SECONDS
if [ ! -e "$stopped" ]; then # else it goes on
  for name in wide deep supervised mgd; do rm -rf "$(run $name)"; done
fi
rm -f "$stopped"
PYTHONPATH=. "$python" exp.demo/scenes.py DATA/scenes --val 96
train wide & wide=$!
train deep & deep=$!
side_by_side $wide $deep
train supervised & supervised=$!
train mgd method.wide_teacher="$(run wide)/last.pt" method.deep_teacher="$(run deep)/last.pt" & mgd=$!
side_by_side $supervised $mgd

echo
"$python" -m mgd compare T_W:"$(run wide)/last.pt" T_D:"$(run deep)/last.pt" \
  supervised:"$(run supervised)/last.pt" MGD:"$(run mgd)/last.pt" --out "exp.demo/demo-$seed.png"

# The student leaves: one file that takes photos, tested against its card, and a report of what MGD gave.
student=$(run mgd) report=exp.demo/report-$seed.html
"$python" -m mgd export "$student/last.pt" --size 96x128 --out "$student/student.onnx"
"$python" -m mgd verify "$student/student.onnx"
"$python" -m mgd report supervised:"$(run supervised)" MGD:"$student" --out "$report"
echo "report: open $report in a browser"
echo "page:   $python -m mgd export $student/last.pt --size 96x128 --format web --out $student/page (needs npm), then"
echo "        $python -m http.server --directory $student/page and http://localhost:8000"
echo "seed $seed: $((SECONDS - started)) seconds"
