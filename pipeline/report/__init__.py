"""Write the report of a run.

``data`` makes report.json's content; ``html`` the page for people, from ``templates``, ``figures``
and the plots; ``markdown`` and ``text`` the short forms; ``published`` reads reports back.
"""
