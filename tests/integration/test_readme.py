"""What the README shows runs as it is written."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.integration.conftest import ROOT, Server

DEFAULT_URL = "http://127.0.0.1:3000"
README = (ROOT / "README.md").read_text()
CURLS = [block for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if block.startswith("curl")]
EXAMPLES = "".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize("block", CURLS, ids=range(len(CURLS)))
def test_every_curl_command_is_answered(server: Server, block: str) -> None:
    command = block.replace(DEFAULT_URL, server.url).replace("curl ", "curl --fail-with-body ", 1)
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)

    assert result.returncode == 0, result.stdout
    assert '"choices"' in result.stdout
    assert '"error"' not in result.stdout


def test_the_python_examples_run_one_after_the_other(server: Server) -> None:
    script = EXAMPLES.replace(DEFAULT_URL, server.url)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert result.returncode == 0, result.stderr
