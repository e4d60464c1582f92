"""From files to batches: lists, partitions, augmentation, CutMix, loaders.

files      images (decoded photos and label maps), label_map (values that mean other classes), classes, names
lists      folders (photos and pairs), datasets (labelled, unlabelled, validation), partitions (which are labelled)
samples    transforms (a crop), cutmix (masks), photometric (strong, on the device), balance (weights of classes)
stores     store (arrays of every photo), maps (what teachers left), pack (decoded photos), packing (decodes them)
batches    positions (who takes what), loaders (samples and their loaders), batch (what an objective gets)
prepare/   makers of known data sets; formats/ readers and writers of annotation tools' labels
"""
