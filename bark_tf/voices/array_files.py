"""Arrays of numbers in NumPy's files, which may come from anybody."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable
from typing import IO

import numpy as np

from bark_tf.config.fields import brief
from bark_tf.files import check_file, refuse_lfs_pointer

# Two hours of eight codebooks. A header of a few bytes may claim any shape.
_MAX_ARRAY_VALUES = 2**22


def _read_array(stream: IO[bytes]) -> np.ndarray:
    """Reads an array of numbers in NumPy's format; refuses pickles and huge arrays."""
    version = np.lib.format.read_magic(stream)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"an array of numbers has version 1 or 2, not {version}")
    shape, _, dtype = readers[version](stream)
    if dtype.kind not in "iuf":
        raise ValueError(f"the array must hold integers, not {dtype}")
    if math.prod(shape) > _MAX_ARRAY_VALUES:
        raise ValueError(
            f"the array must have at most {_MAX_ARRAY_VALUES} values, not {shape}"
        )
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Reads one array from a `.npy` file; nothing in it is ever executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken or holds no array of numbers.
    """
    check_file(path)
    with open(path, "rb") as file:
        try:
            return _read_array(file)
        # A malicious header can make its parser raise almost anything.
        except Exception as error:
            refuse_lfs_pointer(path)
            raise ValueError(f"{path} is not an array file: {brief(error)}") from error


def read_npz(path: str | os.PathLike, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads those of a voice's arrays that a `.npz` file has.

    Args:
        path: The file; nothing in it is ever executed.
        keys: Names of the arrays.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is broken, or one of these is no array of numbers.
    """
    check_file(path)
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                present = set(archive.namelist())
                arrays = {}
                for key in keys:
                    if f"{key}.npy" in present:
                        with archive.open(f"{key}.npy") as stream:
                            arrays[key] = _read_array(stream)
                return arrays
        # As above, and a broken archive can fail in a dozen ways.
        except Exception as error:
            refuse_lfs_pointer(path)
            raise ValueError(f"{path} is not a voice file: {brief(error)}") from error
