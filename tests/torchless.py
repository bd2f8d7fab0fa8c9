"""An environment without torch and voxmim."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# The packages that examples/predict_onnx.py lists in its first lines, and those that they import.
_PACKAGES = ("flatbuffers", "google", "nibabel", "numpy", "onnxruntime", "packaging", "scipy")
_MORE = ("numpy.libs", "scipy.libs", "typing_extensions.py", "importlib_resources")


def run_torchless(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with only the packages that predict_onnx.py needs, linked into a new folder."""
    spec = find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parents[1]
    folder.mkdir()
    for name in (*_PACKAGES, *_MORE):
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    command = [sys.executable, "-S", *map(str, arguments)]  # -S: without site-packages
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
