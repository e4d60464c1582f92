"""Weights of MGD, KD and CWD, chosen on facades photos that are held out of training, 1/32 labelled, from scratch.

Cost:    47 runs of 600 iterations (teachers 500) of 8 images at crop 80 on a CPU
Score:   RESULTS.md
Command: python benchmarks/comparison/hold_out.py DATA/facades OUT
         python -m mgd sweep benchmarks/comparison/facades_search/sweep.py --jobs 2, and the changes that it prints
"""

from mgd.config import family

sweep = family(__file__).FACADES_SEARCH  # ../family.py
