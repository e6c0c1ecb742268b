"""JapaneseVowels: nine speakers, each saying two vowels, as sequences of cepstrum coefficients.

M. Kudo, J. Toyama and M. Shimbo, Multidimensional curve classification using passing-through regions, Pattern
Recognition Letters 20, 1999. The recordings are read from the files that ship inside the ``sktime`` package; nothing is
downloaded, and the package itself, with all that it would import, is not imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

PACKAGE = "sktime"
FOLDER = Path("datasets", "data", "JapaneseVowels")


@dataclass(frozen=True, eq=False)
class Utterances:
    """A ragged batch of recordings, time first.

    Attributes
    ----------
    x : ndarray of float32, shape (T, B, 12)
        The coefficients of each frame; zeros past an utterance's end.
    lengths : ndarray of int64, shape (B,)
        How many frames each utterance has.
    labels : ndarray of int64, shape (B,)
        Who speaks, 0 to 8.
    """

    x: FloatArray
    lengths: IntArray
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any]) -> Utterances:
        """Some of the utterances, in the order of ``rows``, padded no longer than the longest of them."""
        lengths = self.lengths[rows]
        steps = int(lengths.max(initial=0))
        return Utterances(np.ascontiguousarray(self.x[:steps, rows]), lengths, self.labels[rows])


def load() -> tuple[Utterances, Utterances]:
    """Read the recordings.

    Returns
    -------
    training, test : Utterances
        270 and 370 of them. Each coefficient has the training frames' mean subtracted and is divided by their standard
        deviation.

    Raises
    ------
    ModuleNotFoundError
        If sktime is not installed.
    FileNotFoundError
        If it is, but does not hold the recordings.
    ValueError
        If their files are not as expected.
    """
    training, test = (_read(_folder() / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    frames = np.concatenate([frames for frames, _ in training])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    return _padded(training, mean, deviation), _padded(test, mean, deviation)


def _folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    folder = Path(spec.submodule_search_locations[0]) / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"sktime as it is installed here does not ship JapaneseVowels: there is no {folder}")
    return folder


def _read(path: Path) -> list[tuple[NDArray[np.float64], int]]:
    """(frames (T, 12), label) of each utterance of a ``.ts`` file.

    After the header a line is an utterance: its coefficients separated by ``:``, each a series of numbers separated by
    commas, then the label.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    utterances = []
    for number, line in enumerate(lines, 1):
        if line and line[0] not in "#@":
            *series, label = line.split(":")
            try:
                frames = np.array([one.split(",") for one in series], np.float64).T
                utterances.append((frames, int(label) - 1))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected series of equal length and a label") from error
    return utterances


def _padded(
    utterances: list[tuple[NDArray[np.float64], int]], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> Utterances:
    lengths = np.array([len(frames) for frames, _ in utterances], np.int64)
    x = np.zeros((int(lengths.max()), len(utterances), len(mean)), np.float32)
    for row, (frames, _) in enumerate(utterances):
        x[: len(frames), row] = (frames - mean) / deviation
    return Utterances(x, lengths, np.array([label for _, label in utterances], np.int64))
