"""From files to batches: lists, partitions, augmentation, CutMix, loaders."""
