"""``lainctl doctor``: look (``sight.py``, ``here.py``, ``local.py``), judge (``judge.py``, ``nodes.py``: pure), tell (``report.py``)."""
