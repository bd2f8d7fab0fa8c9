"""Detecting faults of files, cases and cohorts of scans."""
