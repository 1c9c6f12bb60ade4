"""The list of all data sets: names, licences, owners, options; known before any file of them is there.

The command line reads it for its help, so it imports nothing slow.
"""

from dataclasses import dataclass

TAU_LICENCE = "free for academic use, no commercial use (Tampere University)"
TAU_OWNER = "Tampere University, Audio Research Group (Heittola, Mesaros, Virtanen)"


@dataclass(frozen=True)
class DataSetInfo:
    """What is known of a data set.

    Attributes:
        title: full name.
        licence: of the audio.
        owner: who publishes it, and where.
        doi: of the record that holds its files, or of its paper where it is not `free`.
        free: whether anybody can download the files, with checksums, from that record.
        options: arguments of its `read` function besides the folder.
        cities: whether a clip's group begins with its city and a dash.
    """

    title: str
    licence: str
    owner: str
    doi: str
    free: bool = False
    options: tuple[str, ...] = ("skip_bad",)
    cities: bool = False


DATA_SETS: dict[str, DataSetInfo] = {
    "esc50": DataSetInfo(
        "ESC-50",
        "CC BY-NC 3.0",
        "Karol J. Piczak, in a public source repository",
        "10.1145/2733373.2806390",
        options=(),
    ),
    "tau22": DataSetInfo(
        "TAU Urban Acoustic Scenes 2022 Mobile, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.6337421",
        free=True,
        options=("skip_bad", "subset"),
        cities=True,
    ),
    "tau22-evaluation": DataSetInfo(
        "TAU Urban Acoustic Scenes 2022/2023 Mobile, evaluation, without labels",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.7870258",
        free=True,
    ),
    "tau20": DataSetInfo(
        "TAU Urban Acoustic Scenes 2020 Mobile, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.3819968",
        free=True,
        cities=True,
    ),
    "tau19": DataSetInfo(
        "TAU Urban Acoustic Scenes 2019, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.2589280",
        free=True,
        cities=True,
    ),
    "tut18": DataSetInfo(
        "TUT Urban Acoustic Scenes 2018, development (DCASE 2018 task 1a)",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.1228142",
        free=True,
        options=("skip_bad", "fold"),
        cities=True,
    ),
    "urbansound8k": DataSetInfo(
        "UrbanSound8K",
        "CC BY-NC 3.0",
        "New York University (Salamon, Jacoby, Bello)",
        "10.5281/zenodo.1203745",
        free=True,
    ),
    "deepship": DataSetInfo(
        "DeepShip",
        "not stated by its authors; ask them",
        "Muhammad Irfan et al., who send it on request by mail",
        "10.1016/j.eswa.2021.115270",
        options=("skip_bad", "segment", "test_fraction"),
    ),
    "vtuad": DataSetInfo(
        "VTUAD, Vessel Type Underwater Acoustic Data",
        "CC BY 4.0",
        "Domingos, Skelton and Santos, on IEEE DataPort",
        "10.21227/msg0-ag12",
    ),
    "folder": DataSetInfo(
        "a folder or a CSV of your own", "unknown", "you", "", options=("table", "test_fraction", "licence", "skip_bad")
    ),
}
"""Name on the command line -> data set."""
