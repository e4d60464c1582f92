#!/usr/bin/env bash
# Trains the config.py beside this file, or goes on from its last.pt, then scores it: bash script.sh [key.sub=value ...]
# Environment: NGPUS (processes on this machine, default: its GPUs), PYTHON; on each of several machines, which must
# share the run folder: NNODES, NODE_RANK (0 on the machine MASTER_ADDR, 1, 2, ... on the others), MASTER_ADDR, MASTER_PORT.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cd "$here/../.." # the repository's root: relative paths such as data.root=DATA/city start there
config=${here#"$(pwd -P)/"}/config.py

if [[ -z ${PYTHON:-} && -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
PYTHON=${PYTHON:-python3}
# OpenMP's threads spin while they wait and take the cores from the loader: 12 times slower on a busy 2-core machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
NGPUS=${NGPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
if [[ $NGPUS == 0 ]]; then NGPUS=1; fi # a CPU
NNODES=${NNODES:-1}
if [[ $NNODES != 1 && (-z ${NODE_RANK:-} || -z ${MASTER_ADDR:-}) ]]; then
    echo "NNODES=$NNODES needs NODE_RANK and MASTER_ADDR; ${config%config.py}script.sh tells what they are" >&2
    exit 2
fi

launch() { # NODES COMMAND ARGUMENT...
    local nodes=$1 torchrun=("$PYTHON" -m torch.distributed.run --nproc-per-node "$NGPUS")
    shift
    if [[ $nodes != 1 ]]; then
        "${torchrun[@]}" --nnodes "$nodes" --node-rank "$NODE_RANK" \
            --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" -m mgd "$@"
    elif [[ $NGPUS != 1 ]]; then
        "${torchrun[@]}" --standalone -m mgd "$@" # a free port, so that runs can share a machine
    else
        "$PYTHON" -m mgd "$@"
    fi
}

launch "$NNODES" train "$config" --resume "$@"
if [[ $NNODES == 1 || $NODE_RANK == 0 ]]; then launch 1 evaluate "$config" "$@"; fi
