"""What each format of image files needs beside ITK; others speak to `scans/volume.py`."""
