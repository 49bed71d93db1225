import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PYTHON_PATH = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
"""For processes that run elsewhere."""

Quickstart = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The output of `python -m tokenizer_jobs run configs/quickstart.yaml`, and what the command said."""
    output = tmp_path_factory.mktemp("quickstart") / "out"
    words = [sys.executable, "-m", "tokenizer_jobs", "run", "configs/quickstart.yaml", "--output", str(output)]
    return output, subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
