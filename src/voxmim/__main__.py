"""``python -m voxmim`` is ``voxmim``."""

from voxmim.cli import main

main()
