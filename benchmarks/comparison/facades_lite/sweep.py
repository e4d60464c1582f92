"""The methods compared on facades photos: an EfficientNet-Lite0 student with ImageNet weights.

Cost:    261 runs of 300 iterations (teachers 500, `longer` 1,500) of 8 images at crop 80 on a CPU
Score:   RESULTS.md (300 iterations; of 1,500 at 1/16 labels alone, CWD and MGD)
Command: python -m mgd sweep benchmarks/comparison/facades_lite/sweep.py --jobs 2, with the photos in DATA/facades
         and EfficientNet-Lite's weights in DATA/model-weight (or data.root=... model.weights_dir=... after it)
"""

from mgd.config import family

sweep = family(__file__).FACADES_LITE  # ../family.py
