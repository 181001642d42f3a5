"""The samples of the pages that need a running system, run as they are printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parents[3]


def sample(page, word):
    blocks = re.findall(r"^```python\n(.*?)^```$", (HOME / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (text,) = [each for each in blocks if word in each]
    return text


def test_the_agent_of_the_page_hands_over_a_lead_and_prints_what_may_be_said(doors, tmp_path):
    door = doors()
    (tmp_path / "agent.py").write_text(sample("docs/agents.md", "streamable_http_client"), encoding="utf-8")
    variables = {"ENTREGA_API_KEY": door.key, "ENTREGA_MCP_URL": f"{door.url}/mcp", "PATH": os.environ["PATH"]}

    done = subprocess.run(
        [sys.executable, "agent.py"],
        cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "Seus dados foram registrados e serão processados em breve\n"), (
        done.stderr
    )


def test_the_client_of_the_page_hands_over_a_lead(doors, tmp_path, capsys):
    door = doors()
    text = sample("client/README.md", "entrega.create_lead")
    text = text.replace("https://entrega.example.com", door.url).replace("entrega_...", door.key).replace("=20)", "=1)")

    exec(compile(text, "client/README.md", "exec"), {})  # noqa: S102 - our own page

    assert "Seus dados foram registrados e serão processados em breve" in capsys.readouterr().out
