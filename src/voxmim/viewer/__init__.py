"""A local page to look at runs, studies, stores and scans in three planes and in 3D. Imports report and below."""
