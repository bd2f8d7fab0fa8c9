"""What is wrong with a file, a case or a cohort of scans. Imports sources and images."""
