"""How fast voxmim is beside what else a user could take: ``python -m benchmarks NAME``."""
