"""The local page of `voxmim view`: runs, studies, stores and scans in three planes and in 3D."""
