"""Encoders and segmentors, one file each. Imports settings only: no files, training loops or commands."""
