"""Makers of data sets in the layouts that `mgd.data.datasets` reads."""
