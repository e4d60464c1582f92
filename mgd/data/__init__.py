"""From files to batches: lists, partitions, augmentation, CutMix, loaders.

files      images (decoded photos and label maps), plain (most of them, in less time), label_map (what values mean)
lists      names, items, classes, folders (photos and pairs), datasets (labelled, unlabelled, validation), partitions
samples    transforms (a crop), cutmix (masks), photometric (strong, on the device), balance (weights of classes)
stores     store (arrays of every photo), maps (what teachers left), pack (decoded photos), packing (decodes them)
batches    positions (who takes what), samples (what they get), loaders, batch (what an objective gets)
prepare/   makers of known data sets; formats/ readers and writers of annotation tools' labels
"""
