"""``ai-pipeline train ovarian`` and ``evaluate ovarian``: classifier, gate and outline of the lesion.

Frames with class and lesion mask are those of MMOTU (Q. Zhao et al., arXiv 2207.06799). Five folds by group
of near-duplicates, then the network that ships. Figures are of the committed predictions of the folds.
"""
