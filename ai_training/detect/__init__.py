"""The place of a chest finding: boxes, which labels may get them, and how they compare with image-free
baselines.
"""
