"""What is known of each data set before any of its files is there: names, licences, owners, options. The only list of
their names.

Read by the command line for its help, so it imports nothing that is slow.
"""

from dataclasses import dataclass

TAU_LICENCE = "free for academic use, no commercial use (Tampere University)"
TAU_OWNER = "Tampere University, Audio Research Group (Heittola, Mesaros, Virtanen)"


@dataclass(frozen=True)
class Known:
    """A data set.

    Attributes:
        title: its full name.
        licence: of its audio.
        owner: who publishes it, and how it is had.
        doi: of the record that holds it, or of its paper where it is not `free`.
        free: whether the record gives its files to anybody, with checksums.
        options: arguments of its adapter besides the folder.
        cities: whether a clip's group begins with its city and a dash.
    """

    title: str
    licence: str
    owner: str
    doi: str
    free: bool = False
    options: tuple[str, ...] = ("skip_bad",)
    cities: bool = False


KNOWN: dict[str, Known] = {
    "esc50": Known(
        "ESC-50",
        "CC BY-NC 3.0",
        "Karol J. Piczak, in a public source repository",
        "10.1145/2733373.2806390",
        options=(),
    ),
    "tau22": Known(
        "TAU Urban Acoustic Scenes 2022 Mobile, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.6337421",
        free=True,
        options=("skip_bad", "subset"),
        cities=True,
    ),
    "tau22-evaluation": Known(
        "TAU Urban Acoustic Scenes 2022/2023 Mobile, evaluation, without labels",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.7870258",
        free=True,
    ),
    "tau20": Known(
        "TAU Urban Acoustic Scenes 2020 Mobile, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.3819968",
        free=True,
        cities=True,
    ),
    "tau19": Known(
        "TAU Urban Acoustic Scenes 2019, development",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.2589280",
        free=True,
        cities=True,
    ),
    "tut18": Known(
        "TUT Urban Acoustic Scenes 2018, development (DCASE 2018 task 1a)",
        TAU_LICENCE,
        TAU_OWNER,
        "10.5281/zenodo.1228142",
        free=True,
        options=("skip_bad", "fold"),
        cities=True,
    ),
    "urbansound8k": Known(
        "UrbanSound8K",
        "CC BY-NC 3.0",
        "New York University (Salamon, Jacoby, Bello)",
        "10.5281/zenodo.1203745",
        free=True,
    ),
    "deepship": Known(
        "DeepShip",
        "not stated by its authors; ask them",
        "Muhammad Irfan et al., who send it on request by mail",
        "10.1016/j.eswa.2021.115270",
        options=("skip_bad", "segment", "test_fraction"),
    ),
    "vtuad": Known(
        "VTUAD, Vessel Type Underwater Acoustic Data",
        "CC BY 4.0",
        "Domingos, Skelton and Santos, on IEEE DataPort",
        "10.21227/msg0-ag12",
    ),
    "folder": Known(
        "a folder or a CSV of your own", "unknown", "you", "", options=("table", "test_fraction", "licence")
    ),
}
"""Name on the command line -> data set."""
