"""Weights: files, model cards, loading, adapting and importing."""
