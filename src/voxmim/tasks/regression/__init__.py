"""A number for each scan, such as an age or a volume: metrics, evaluation, prediction."""
