"""Downstream tasks: network, loss, validation, evaluation and prediction of each.

A new task is a subclass of `Task` in a folder of its own, registered in `voxmim.tasks.registry`.
"""
