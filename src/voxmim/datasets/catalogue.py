"""The public data sets that can be downloaded: the ten tasks of the Medical Segmentation Decathlon."""

from dataclasses import dataclass

from voxmim.errors import DownloadError, nearest

MIRROR = "https://msd-for-monai.s3-us-west-2.amazonaws.com"  # AWS Open Data
LICENCE, LICENCE_TEXT = "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"  # of all ten
CITATION = "M. Antonelli et al., The Medical Segmentation Decathlon. Nature Communications 13, 4128 (2022)."


@dataclass(frozen=True)
class Archive:
    """The archive of one data set."""

    folder: str  # that it unpacks to; the archive is ``FOLDER.tar``
    md5: str  # of the archive
    about: str  # modality and labels

    @property
    def file(self) -> str:
        """The archive's name on a mirror."""
        return f"{self.folder}.tar"


ARCHIVES = {
    "msd-brain-tumour": Archive(
        "Task01_BrainTumour", "240a19d752f0d9e9101544901065d872", "MR in four channels: gliomas and their oedema"
    ),
    "msd-heart": Archive("Task02_Heart", "06ee59366e1e5124267b774dbd654057", "MR: the left atrium"),
    "msd-liver": Archive("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397", "CT: the liver and its tumours"),
    "msd-hippocampus": Archive(
        "Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b", "MR: the front and the back of the hippocampus"
    ),
    "msd-prostate": Archive(
        "Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db", "MR in two channels: two zones of the prostate"
    ),
    "msd-lung": Archive("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc", "CT: tumours of the lung"),
    "msd-pancreas": Archive("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4", "CT: the pancreas and its tumours"),
    "msd-hepatic-vessel": Archive(
        "Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c", "CT: vessels and tumours of the liver"
    ),
    "msd-spleen": Archive("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e", "CT: the spleen"),
    "msd-colon": Archive("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0", "CT: tumours of the colon"),
}


def archive_of(name: str) -> Archive:
    """The archive of a data set; raises DownloadError if there is none of this name."""
    if name not in ARCHIVES:
        guess = nearest(name, ARCHIVES) or "; 'voxmim download' lists those that are."
        raise DownloadError(f"{name}: no data set of this name is known{guess}")
    return ARCHIVES[name]
