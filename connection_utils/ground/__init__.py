"""What everything else rests on: paths, files written whole, progress bars."""
