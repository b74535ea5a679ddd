"""What jobs/setup.sh takes for a reason to compile the kernels again."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for path in (ROOT / "kernels").rglob("*") if path.suffix in (".pyx", ".pxi", ".h")]


def checksum(folder):
    command = ["bash", "-c", ". jobs/setup.sh && _sources"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_change_of_any_source_is_seen(tmp_path):
    for name in ("pyproject.toml", "setup.py", "jobs/setup.sh", *SOURCES):
        target = tmp_path / (ROOT / name).relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    before = checksum(tmp_path)
    assert checksum(tmp_path) == before
    for source in SOURCES:
        with open(tmp_path / source.relative_to(ROOT), "a", encoding="utf-8") as file:
            file.write("\n")
        after = checksum(tmp_path)
        assert after != before, source
        before = after
