"""Classes of whole scans: inference, metrics, evaluation."""
