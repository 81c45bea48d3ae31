"""The report of a run: ``data`` makes report.json's content, ``html`` the page for people."""
