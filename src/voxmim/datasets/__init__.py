"""Public data sets: the catalogue, and downloading. Imports errors only."""
