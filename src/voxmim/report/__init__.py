"""What a run tells: pictures of scans and the one page that shows everything."""
