#!/usr/bin/env bash
# Trains the config.py beside this file, or goes on from its last.pt, then scores it: bash script.sh [key.sub=value ...]
# launch.sh tells what NGPUS, NNODES and the like in the environment do.
here=$(CDPATH= cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
exec bash "$here/../../launch.sh" "$here" "$@"
