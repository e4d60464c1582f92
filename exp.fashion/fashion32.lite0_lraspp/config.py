"""Student (MGD) on fashion photos, 1/32 labelled: EfficientNet-Lite0 with the LR-ASPP head.

Data:    23 of 717 photos with labels, 694 + 1,094 without
Cost:    500 iterations of 4 images at crop 80 on a CPU
Score:   not yet measured with this code
Command: bash script.sh, with the data in DATA/fashion and the weights in DATA/model-weight, or with
         data.root=../shared/fashion model.weights_dir=../shared/model-weight;
         before it the same in exp.fashion/fashion32.lite2_deep and .lite1_wide; labels alone: with method=supervised
         run.dir={experiment}/run-labels
"""

from dataclasses import replace

from mgd.photos import LITE0, student

config = student("fashion", partition=32, model=replace(LITE0, head="lraspp", channels=256))
