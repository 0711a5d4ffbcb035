"""The nouns of LAIN: frozen dataclasses, one module each; the same names in key, URL, command and log.

Times are seconds since the epoch (``float``, names end in ``_at``); durations end in ``_seconds``, sizes in ``_bytes``. How they
become JSON is ``records.py``'s business; how people's input becomes them is the business of the border they come in by.
"""
