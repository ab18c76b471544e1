"""Whether wheel and source distribution hold the package as git has it, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = {
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "PKG-INFO",
    "pyproject.toml",
    "setup.cfg",
}


def tracked() -> set[str]:
    """Files of the package that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z", "genarm_hf"], check=True, capture_output=True, text=True).stdout
    return set(filter(None, listed.split("\0")))


def in_wheel(path: Path) -> set[str]:
    """Its files, without what describes it."""
    return {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}


def in_sdist(path: Path) -> set[str]:
    """Its files, without what describes it."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    return {name for name in names if name not in ROOT and not name.startswith("genarm_hf.egg-info/")}


def main(folder: Path) -> str | None:
    """What is wrong; None where nothing is."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    wanted = tracked()
    assert "genarm_hf/py.typed" in wanted and "genarm_hf/playground/base/model.safetensors" in wanted
    wrong = []
    for path, found in ((wheel, in_wheel(wheel)), (sdist, in_sdist(sdist))):
        wrong += [f"{path.name} lacks {name}" for name in sorted(wanted - found)]
        wrong += [f"{path.name} has {name}, which is not of the package" for name in sorted(found - wanted)]
        print(f"{path.name}: {len(found)} files, {path.stat().st_size / 1e6:.1f} MB")
    return "\n".join(wrong) or None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
