"""Prepared scans on disk: writing, reading, crops, augmentation, preparing. Imports doctor, sources and images."""
