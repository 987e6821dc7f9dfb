// Of the segmentation that is open: its box (left, top, right, bottom), how many pixels it has, and its image.
() => {
  const { cache, getRenderingEngines } = window.cornerstone;
  const [viewport] = getRenderingEngines().flatMap(engine => engine.getViewports());
  for (const one of window.cornerstoneTools.segmentation.state.getSegmentations()) {
    for (const id of one.representationData?.Labelmap?.imageIds ?? []) {
      const image = cache.getImage(id);
      const box = [Infinity, Infinity, -Infinity, -Infinity];
      let pixels = 0;
      (image?.voxelManager?.getScalarData() ?? []).forEach((value, at) => {
        if (!value) return;
        const [column, row] = [at % image.columns, Math.floor(at / image.columns)];
        pixels += 1;
        box[0] = Math.min(box[0], column);
        box[1] = Math.min(box[1], row);
        box[2] = Math.max(box[2], column + 1);
        box[3] = Math.max(box[3], row + 1);
      });
      if (pixels) return { box, pixels, image: viewport.getCurrentImageId() };
    }
  }
  return null;
}
