"""Projects that are defined on the page or by command, beside those of master.cfg."""
