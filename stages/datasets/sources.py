"""The published files of a dataset, proven by their checksums before anything reads them."""

from pathlib import Path

import pooch

from stages.datasets.arrays import SourceError


def source_file(url: str, sha256: str, folder: Path | None = None) -> Path:
    """A published file, from a folder or from its publisher.

    Args:
        url: where it is published; the file has the last part of it as its name.
        sha256: of the file, in hex.
        folder: that holds the file; without one, the file is downloaded once into the user's cache folder.

    Raises:
        SourceError: the file is missing, cannot be downloaded, or has another checksum.
    """
    name = url.rpartition("/")[2]
    if folder is None:
        return _download(url, sha256, name)
    path = folder / name
    if not path.is_file():
        raise SourceError(f"{path}: no such file, expected that of {url}")
    found = pooch.file_hash(str(path), alg="sha256")
    if found != sha256:
        raise SourceError(f"{path}: the file has SHA-256 {found}, expected {sha256}")
    return path


def _download(url: str, sha256: str, name: str) -> Path:
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", name, pooch.os_cache("tinyrobust"), progressbar=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{url}: not downloaded ({reason}), expected a file with SHA-256 {sha256}, "
            "or a folder that has it in data.mirror"
        ) from error
