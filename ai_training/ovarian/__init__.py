"""Ovarian ultrasound: train and measure the classifier, its gate and the outline of the lesion."""
