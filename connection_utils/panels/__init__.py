"""The two ipywidgets panels, of notebooks 03 and 04, and the diagrams of 01 and 03."""
