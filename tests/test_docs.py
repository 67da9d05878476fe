"""What the pages show works as it is written there: their code is cut out and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from luod.testing import Host, Machine

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    """The Python of a page, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_test_of_a_vmm_author_passes(machine: Machine, tmp_path: Path) -> None:
    """With nothing of this checkout but the installed package. `machine`: where there can be none, this is skipped."""
    test, vmm = blocks("docs/vmm.md")
    (tmp_path / "test_my_vmm.py").write_text(test)
    (tmp_path / "my_vmm.py").write_text(vmm)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_two_halves_of_the_readme_meet(machine: Machine, tmp_path: Path) -> None:
    before, after = blocks("README.md")
    assert "1 << 30" in before
    before = before.replace("1 << 30", "1 << 20") + "ram.close(); session.close()"
    host = Host(machine, state_directory=tmp_path)
    python = host.python()
    host.start()
    machine.run([python.executable, "-c", before], env=python.environment)
    host.load()
    host.update()
    host.start()
    after = "import luod\n" + after + "import os; print(os.fstat(ram.fileno()).st_size); ram.close()"
    assert machine.run([python.executable, "-c", after], env=python.environment).text == f"{1 << 20}"
