"""Finding a checkpoint's files, in a directory or on the Hugging Face hub.

Knows file names, never what is inside them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def find_file(
    path_or_id: str | os.PathLike,
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Returns the path of one file of a checkpoint."""
    directory = Path(path_or_id)
    if directory.is_dir():
        path = directory / name
        if not path.is_file():
            raise FileNotFoundError(f"{directory} has no file {name!r}")
        return path
    import huggingface_hub

    return Path(
        huggingface_hub.hf_hub_download(
            str(path_or_id),
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
    )


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path` and renames it on success.

    Nothing half-written is ever seen under the final name.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    try:
        yield Path(temporary)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
