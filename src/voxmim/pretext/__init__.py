"""Self-supervised tasks: what is hidden, what is predicted, and the loss."""
