"""The parts of the method and today's options one at a time, on fashion photos, 1/16 labelled.

Cost:    84 runs of 1,000 iterations of 8 images at crop 80 on a CPU
Score:   not yet measured
Command: python -m mgd sweep benchmarks/comparison/ablation/sweep.py --jobs 2, with the photos and weights of
         ../fashion_lite
"""

from mgd.config import family

sweep = family(__file__).ABLATION  # ../family.py
