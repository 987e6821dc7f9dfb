// The lines of each viewport, as points (column, row) in pixels of the image that it shows (PS3.3 C.18.6).
() => {
  const { getRenderingEngines, utilities } = window.cornerstone;
  const shown = [];
  for (const viewport of getRenderingEngines().flatMap(engine => engine.getViewports())) {
    const image = viewport.getCurrentImageId?.();
    if (!image) continue;
    const pixel = ([x, y]) => utilities.worldToImageCoords(image, viewport.canvasToWorld([x, y]));
    for (const line of viewport.element.querySelectorAll('svg polyline, svg polygon, svg line, svg rect, svg path')) {
      const value = name => Number(line.getAttribute(name));
      let points = [];
      if (line.tagName === 'line') points = [[value('x1'), value('y1')], [value('x2'), value('y2')]];
      else if (line.tagName === 'rect') {
        const [left, top] = [value('x'), value('y')];
        const [right, bottom] = [left + value('width'), top + value('height')];
        points = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]];
      } else {
        const numbers = (line.getAttribute('points') ?? line.getAttribute('d') ?? '').match(/-?[\d.]+(e-?\d+)?/g) ?? [];
        for (let at = 0; at + 1 < numbers.length; at += 2) points.push([Number(numbers[at]), Number(numbers[at + 1])]);
      }
      if (points.length >= 2 && points.flat().every(Number.isFinite)) shown.push({ image, points: points.map(pixel) });
    }
  }
  return shown;
}
