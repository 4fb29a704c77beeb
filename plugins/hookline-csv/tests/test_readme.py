import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        exec(compile(code, str(README), "exec"), {})
    table = (tmp_path / "runs/first/metrics.csv").read_text().splitlines()
    assert table[:3] == ["iteration,total_loss,eval/loss", "0,1.0,", "1,0.5,"]
