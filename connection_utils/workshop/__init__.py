"""What the series itself needs: model and data, notebooks, documentation pairs."""
