"""Encoders and segmentors; nothing here knows of files (but weights.py), training loops or commands."""
