"""Running a config on a Ray cluster through its jobs API, and looking after what was submitted."""
