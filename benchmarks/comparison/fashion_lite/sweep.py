"""The methods compared on fashion photos: an EfficientNet-Lite0 student with ImageNet weights.

Cost:    261 runs of 300 iterations (teachers 500, `longer` 1,500) of 8 images at crop 80 on a CPU
Score:   RESULTS.md (300 iterations; of 1,500 at 1/32 labels alone and MGD)
Command: python -m mgd sweep benchmarks/comparison/fashion_lite/sweep.py --jobs 2, with the photos in DATA/fashion
         and EfficientNet-Lite's weights in DATA/model-weight (or data.root=... model.weights_dir=... after it)
"""

from mgd.config import family

sweep = family(__file__).FASHION_LITE  # ../family.py
