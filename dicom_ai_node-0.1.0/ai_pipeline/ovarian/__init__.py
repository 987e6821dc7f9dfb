"""Ovarian ultrasound: classes of cysts and tumours, and the outline of the lesion."""
