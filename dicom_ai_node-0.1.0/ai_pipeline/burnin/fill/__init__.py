"""Filling what goes: classical and learned inpainters, in the stored type, inside the mask only."""
