"""Public data sets: the catalogue, and downloading."""
