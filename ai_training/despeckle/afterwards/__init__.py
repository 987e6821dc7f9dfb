"""What a segmenter makes of frames with less speckle."""
