"""Exporting trained networks for other programs: one file per format, see `voxmim.export.formats.FORMATS`."""
