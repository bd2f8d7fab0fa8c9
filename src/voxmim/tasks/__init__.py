"""What a fine-tuning is for: segmentation and classification, each with its loss, metrics and inference.

Imports weights and below.
"""
