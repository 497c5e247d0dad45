"""Drop from notebooks what a run leaves behind and nbdev-clean keeps: widget views, their state, papermill's own cells.

usage: python .ci/tidy.py nbs
A widget is only alive while its kernel is: in a committed notebook a progress bar reads "Error displaying widget".
"""

import sys
from pathlib import Path

from fastcore.nbio import read_nb, write_nb

WIDGET = "application/vnd.jupyter.widget-view+json"
INJECTED = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells that papermill adds


def tidy(notebook: Path) -> None:
    nb = read_nb(notebook)
    cells = [c for c in nb.cells if not INJECTED & set(c.metadata.get("tags", []))]
    views = [o for c in cells for o in c.get("outputs", []) if WIDGET in o.get("data", {})]
    if len(cells) == len(nb.cells) and not views and "widgets" not in nb.metadata:
        return
    nb.cells = cells
    nb.metadata.pop("widgets", None)
    for cell in cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    write_nb(nb, notebook)


if __name__ == "__main__":
    for notebook in sorted(Path(sys.argv[1]).rglob("*.ipynb")):
        tidy(notebook)
