"""Encoders and segmentors, one file each. Knows settings; nothing of files, training loops or commands."""
