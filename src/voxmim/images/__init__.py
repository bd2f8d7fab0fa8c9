"""Volumes with their geometry and intensities, and the reader of each file format. Imports errors and files only."""
