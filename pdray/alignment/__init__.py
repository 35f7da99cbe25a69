"""DPO on the kept pairs."""
