"""The console: pages for people with a browser, in a separate process. It changes things only through
``dicom_node.people``.
"""
