"""A page to look at scans and results."""

from pathlib import Path


def view(path: Path | str, port: int = 0, no_browser: bool = False) -> None:
    """Look at a run, a study, a store, a folder of scans or a scan in the browser, until interrupted.

    The page is served on this machine only, under an address with a random token. It shows three planes and 3D, label
    maps and reconstructions as layers, learning curves while a run trains, and what is wrong with which file.

    Args:
        path: run, study, store, folder or list of scans, or one scan of any readable format.
        port: on 127.0.0.1. Default: a free one.
        no_browser: print the address, and open no browser.

    Raises:
        VoxmimError: nothing there can be shown, or the port is taken.
    """
    from voxmim.viewer.opening import open_collection
    from voxmim.viewer.server import serve

    serve(open_collection(Path(path)), port, not no_browser)
