"""The run folder, the loop, and the two trainings: pre-training and fine-tuning."""
