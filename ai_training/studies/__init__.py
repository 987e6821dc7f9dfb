"""Studies of chest X-ray classification: networks whose training differs in one setting,
compared in pairs.
"""
