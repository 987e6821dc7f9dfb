"""Images and labels: how they are read, the layouts of published sets, chest X-rays as one table, splits.

A layout is recognised by the content of a folder. A new one is a :class:`SetLayout` in :data:`LAYOUTS`, and a
line in docs/reference/data-sets.md. A site's own table: ``manifest.csv``, or any CSV file that ``--data``
names: ``file`` (or ``image``, ``path``; relative to the table), ``patient_id`` (or ``patient``, ``group``),
0/1 columns with the names of the labels (-1: unknown) or one column ``labels`` (``Mass|Nodule``) or
``label``; optional ``split``, ``mask``, ``age`` (years), ``sex``, ``view`` (PA, AP), ``source`` and
``source_repo``; further numbers are measures.
"""
