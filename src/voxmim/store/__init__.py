"""Prepared scans on disk: writing, reading, crops, augmentation, preparing."""
