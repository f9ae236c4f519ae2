"""The two ipywidgets panels, of notebooks 03 and 04."""
