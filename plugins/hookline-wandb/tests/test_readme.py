import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    exec(compile(code, str(README), "exec"), {})
    assert list(tmp_path.glob("runs/mine/wandb/offline-run-*/*.wandb"))
