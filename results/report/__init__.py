"""report.html: the run to look at, as one file that needs neither a network nor a script."""
