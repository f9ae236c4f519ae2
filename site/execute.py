"""Re-execute the committed notebooks as a check would, and save what they print.

    python site/execute.py [NN]

With NN, such as 03, those whose names begin so. The README's pictures, the first figures of
notebooks 03 and 04, are saved, too.
"""

import base64
import os
import sys

import nbformat
from nbclient import NotebookClient

from connection_utils.ground.paths import ROOT
from connection_utils.ground.whole_files import write_whole

NOTEBOOKS = ROOT / "notebooks"
PICTURES = {"03_train_siamese_cosine": "siamese.png",
            "04_similarity_distributions": "similarity_distributions.png"}


def main() -> None:
    """Execute, save; a notebook with an error stays as it was."""
    os.environ["CONNECTION_CHECK"] = "full"
    begin = sys.argv[1] if len(sys.argv) > 1 else ""
    paths = [path for folder in (NOTEBOOKS, NOTEBOOKS / "solutions")
             for path in sorted(folder.glob(f"{begin}*.ipynb"))]
    if not paths:
        sys.exit(f"no notebook begins with {begin!r}; expected 01, 02, …")
    for path in paths:
        print(path.stem, flush=True)
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=None, kernel_name="python3", store_widget_state=False,
            record_timing=False, coalesce_streams=True, extra_arguments=["--log-level=CRITICAL"],
            resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
        notebook.metadata["language_info"] = {"name": "python"}    # without the exact version
        with write_whole(path) as scratch:
            nbformat.write(notebook, scratch)
        if path.stem in PICTURES:
            picture = next(output.data["image/png"] for cell in notebook.cells
                           for output in cell.get("outputs", [])
                           if "image/png" in output.get("data", {}))
            with write_whole(NOTEBOOKS / PICTURES[path.stem]) as scratch:
                scratch.write_bytes(base64.b64decode(picture))


if __name__ == "__main__":
    main()
