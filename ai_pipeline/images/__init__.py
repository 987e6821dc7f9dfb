"""Read a file into samples and displayed grey levels, and draw results into pictures."""
