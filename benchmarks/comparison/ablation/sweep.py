"""The parts of the method and today's options one at a time, on facades, 1/16 labelled, from scratch.

Cost:    95 runs of 600 iterations (teachers 500) of 8 images at crop 80 on a CPU; four times `mgd teach`
Score:   RESULTS.md, as far as it is measured
Command: python -m mgd sweep benchmarks/comparison/ablation/sweep.py --jobs 2, with the photos and weights of
         ../facades_lite
"""

from mgd.config import family

sweep = family(__file__).ABLATION  # ../family.py
