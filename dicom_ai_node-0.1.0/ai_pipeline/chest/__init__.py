"""Frontal chest X-rays of adults: intended use, findings, boxes, heat maps."""
