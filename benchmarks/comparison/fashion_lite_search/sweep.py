"""Weights of MGD for an EfficientNet-Lite0 student on fashion photos, chosen on a part of the training photos.

Cost:    9 runs of 300 iterations (teachers 500) of 8 images at crop 80 on a CPU
Score:   RESULTS.md
Command: python benchmarks/comparison/hold_out.py DATA/fashion OUT
         python -m mgd sweep benchmarks/comparison/fashion_lite_search/sweep.py --jobs 2, and the changes that it prints
"""

from mgd.config import family

sweep = family(__file__).FASHION_LITE_SEARCH  # ../family.py
