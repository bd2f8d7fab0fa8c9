"""Pictures of scans, plots, and the pages of runs and inspections."""
