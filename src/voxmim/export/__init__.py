"""Trained networks for other programs: one file per format, listed in `voxmim.export.formats.FORMATS`."""
