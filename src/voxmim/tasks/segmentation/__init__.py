"""Labels of voxels: loss, inference, metrics, evaluation."""
