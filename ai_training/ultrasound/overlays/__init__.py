"""Synthetic burned-in annotation on clean ultrasound frames, with the truth: each drawn object and its place.

Texts are as scanners write them: invented words, fonts, styles. Two families of styles share nothing: a
detector is trained on one family and evaluated on the other, because a site's scanners write in ways that
the detector has never seen. Calipers, arrows, bars, rulers and logos are drawn as stencils of the canvas's
size, and placed at random. :func:`burn_in` gives the clean picture, mask, classes and objects as well.
"""
