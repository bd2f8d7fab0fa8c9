"""Weights: save, load, adapt, import, export. Imports pretext, networks and store."""
