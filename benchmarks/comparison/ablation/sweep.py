"""The parts of the method and today's options one at a time, on fashion photos, 1/32 labelled, from scratch.

Cost:    89 runs of 600 iterations (teachers 500) of 8 images at crop 80 on a CPU
Score:   not yet measured
Command: python -m mgd sweep benchmarks/comparison/ablation/sweep.py --jobs 2, with the photos and weights of
         ../fashion_lite
"""

from mgd.config import family

sweep = family(__file__).ABLATION  # ../family.py
