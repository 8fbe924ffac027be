"""The commands of `app.py`, a file each."""
