"""``ai-pipeline evaluate chest``: compute the figures of a card again from its weights.

Everything is fixed (weights, images, bootstrap draw), so two runs print the same numbers. Figures are of
adults, the intended use; the headline figures are also given with children. Intervals are [value, low, high],
95 %, by bootstrap over patients. Colours of plots are those of Okabe and Ito, which people with a colour
vision deficiency can tell apart.

Operating points are thresholds from validation images; the reliability of calls is that of test images.
``sensitive``: for each label the highest cut with a sensitivity of at least .9, or the cut at which half of
the images without the finding are called: more calls would say nothing. ``specific``: a finding is called if
its odds are a certain multiple of the odds of its prevalence. The multiple is the same for all labels; with
it at most one in ten of the images without any finding gets a call that a reader sees; no cut is below the
balanced one. So false alarms are spent on the labels that the model knows best. Labels of which too few calls
would be right, on the same images, are not called and count for nothing. ``balanced`` are the thresholds of
the labels. An image that the gate or its exposure refuses gets no call.
"""
