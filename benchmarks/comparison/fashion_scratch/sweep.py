"""The methods compared on fashion photos: a student of 0.4 M parameters from scratch, teachers with ImageNet weights.

Cost:    261 runs of 600 iterations (teachers 500, `longer` 1,500) of 8 images at crop 80 on a CPU
Score:   RESULTS.md (most rows at 1/32; some at 1/16 and 1/8)
Command: python -m mgd sweep benchmarks/comparison/fashion_scratch/sweep.py --jobs 2, with the photos in DATA/fashion
         and EfficientNet-Lite's weights in DATA/model-weight (or data.root=... model.weights_dir=... after it)
"""

from mgd.config import family

sweep = family(__file__).FASHION_SCRATCH  # ../family.py
