"""Ovarian ultrasound: training and measuring the classifier, its gate and the outline of the lesion."""
