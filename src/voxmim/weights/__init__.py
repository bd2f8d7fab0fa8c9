"""Weights: files, model cards, loading, adapting, importing, exporting. Imports pretext, networks and store."""
