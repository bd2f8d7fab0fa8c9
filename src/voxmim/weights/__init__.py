"""Weights: files, model cards, loading, adapting, importing. Imports pretext, networks and store."""
