"""The notebook in ``examples/``, executed from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_the_notebook_is_committed_without_outputs() -> None:
    import nbformat

    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.get("text", "") for output in outputs)
    print(told)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert "planted conflicts: 25.0% of all pairs" in told
    assert told.count("  by ") == 3
    assert list(tmp_path.iterdir()) == []
