"""Generated cohorts with labels; no patient is involved. Imports images."""
