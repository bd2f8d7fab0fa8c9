"""Whole experiments: several runs side by side, and what they showed."""
