"""What an encoder is fine-tuned for: network, loss, validation, evaluation and prediction of each task.

Imports weights, stores and what lies below them; knows nothing of trainings, pages or commands. A new task is a
subclass of `Task` in a folder of its own, registered in `voxmim.tasks.registry`.
"""
