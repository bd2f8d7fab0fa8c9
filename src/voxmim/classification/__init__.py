"""From a trained classifier to the class of a whole scan, and to numbers about it."""
