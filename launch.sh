#!/usr/bin/env bash
# Trains an experiment, or goes on from its last.pt, then scores it; what every script.sh runs:
#   bash launch.sh FOLDER [key.sub=value ...]
# Environment: NGPUS (processes on this machine, default: its GPUs), PYTHON; on each of several machines, which must
# share the run folder: NNODES, NODE_RANK (0 on the machine MASTER_ADDR, 1, 2, ... on the others), MASTER_ADDR, MASTER_PORT.
set -euo pipefail

unset CDPATH # with it cd says where it went
experiment=$(cd "$1" && pwd -P)
shift
changes=() # what evaluate takes as well: no option of train
for argument in "$@"; do
    if [[ $argument != -* && $argument == *=* ]]; then changes+=("$argument"); fi
done
cd "$(dirname "${BASH_SOURCE[0]}")" # the repository's root: relative paths such as data.root=DATA/city start there
config=${experiment#"$(pwd -P)/"}/config.py

if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
PYTHON=${PYTHON:-python3}
# OpenMP's threads spin while they wait and take the cores from the loader: 12 times slower on a busy 2-core machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
NGPUS=${NGPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
if [[ $NGPUS == 0 ]]; then NGPUS=1; fi # a CPU
NNODES=${NNODES:-1}
if [[ $NNODES != 1 && (-z ${NODE_RANK:-} || -z ${MASTER_ADDR:-}) ]]; then
    echo "NNODES=$NNODES needs NODE_RANK and MASTER_ADDR; launch.sh tells what they are" >&2
    exit 2
fi

launch() { # NODES COMMAND ARGUMENT...; takes the place of the shell that it is called in
    local nodes=$1 torchrun=("$PYTHON" -m torch.distributed.run --nproc-per-node "$NGPUS")
    shift
    if [[ $nodes != 1 ]]; then
        exec "${torchrun[@]}" --nnodes "$nodes" --node-rank "$NODE_RANK" \
            --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" -m mgd "$@"
    elif [[ $NGPUS != 1 ]]; then
        exec "${torchrun[@]}" --standalone -m mgd "$@" # a free port, so that runs can share a machine
    else
        exec "$PYTHON" -m mgd "$@"
    fi
}

# The training is a process group of its own, so that each signal reaches it once: through this script. SIGTERM and
# SIGUSR1 let it finish its step and save, and so does a terminal that is closed (SIGHUP); status 75 then says "not done,
# run me again", whatever torchrun makes of it.
set -m
stopped=
launch "$NNODES" train "$config" --resume "$@" &
training=$!
trap 'stopped=yes; kill -TERM $training 2>/dev/null || true' TERM USR1 HUP
trap 'kill -INT -- -$training 2>/dev/null || true' INT
status=0
wait $training || status=$?
while kill -0 $training 2>/dev/null; do # a signal ended the wait, not the training
    wait $training && status=0 || status=$?
    sleep 0.1 # a training that is stopped (SIGSTOP) ends every wait at once
done
trap - TERM USR1 HUP INT
if [[ $stopped && ($status == 1 || $status -gt 128) ]]; then status=75; fi
if [[ $status != 0 ]]; then exit "$status"; fi
if [[ $NNODES == 1 || $NODE_RANK == 0 ]]; then launch 1 evaluate "$config" ${changes[@]+"${changes[@]}"}; fi
