"""One reader for each format of image files."""
