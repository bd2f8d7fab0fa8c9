"""Public data sets: what there is, and how it comes to this machine."""
