"""``ai-pipeline train chest``: fine-tune a backbone as an experiment file says; gate, ONNX, card.

Runs are seeded and limited by iterations, never by seconds: two runs of one machine with one thread count
give the same numbers, also if one was interrupted. A GPU is used if there is one (bfloat16).

The gate is fitted again for every network, in a minute or two, because it reads the network's own features.
Its pictures are made from the images of ``--data``: transforms of adults' chests (turned, inverted, cut off,
clipped), small children of another hospital, ultrasound. Sets that are missing are left out. It is measured
by what it reorients, refuses, and accepts wrongly.
"""
