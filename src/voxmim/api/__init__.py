"""The Python interface: one typed function per command, with paths and plain settings as arguments.

Each function imports what it needs when it is called, so that importing this package is fast.
"""

from voxmim.api.machine import doctor
from voxmim.api.results import embed, evaluate, predict, reconstruct
from voxmim.api.scans import data_sets, download, inspect, phantom, prepare, read_volume, split, verify
from voxmim.api.studies import demo, study
from voxmim.api.training import finetune, plan, pretrain, recipes
from voxmim.api.viewing import open_run, view
from voxmim.api.weights import export_weights, import_weights, load_encoder
