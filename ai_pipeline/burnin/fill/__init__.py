"""Fill removed pixels: classical and learned inpainters, in the stored type, inside the mask only."""
