"""Speed and memory of voxmim compared with other implementations: ``python -m benchmarks NAME``."""
