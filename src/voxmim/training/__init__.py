"""Training: the run folder, the training loop, pre-training and fine-tuning."""
