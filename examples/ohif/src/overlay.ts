/** Draws presentation states over the images of Cornerstone's viewports. */
import { type Point, numberOr } from './dicom';
import { type Presentation, presentationOf } from './presentationStates';

const SVG = 'http://www.w3.org/2000/svg';
const COLOUR = '#ffe14d';
const LINE_HEIGHT = 17;

/** The presentation state that a viewport shows, if it shows one; by the viewport's ID. */
export type StateOf = (viewportId: string) => Record<string, any> | undefined;

/** Draw in every viewport from now on, and call `rendered` after each image; the returned function ends it. */
export function drawStates(cornerstone: any, stateOf: StateOf, rendered: (viewportId: string) => void): () => void {
  const { ELEMENT_ENABLED, ELEMENT_DISABLED, IMAGE_RENDERED } = cornerstone.Enums.Events;
  const draw = (event: any) => {
    const viewport = cornerstone.getEnabledElement(event.target)?.viewport;
    if (!viewport) return;
    show(cornerstone, viewport, stateOf(viewport.id));
    rendered(viewport.id);
  };
  const enabled = (event: any) => event.detail.element.addEventListener(IMAGE_RENDERED, draw);
  const disabled = (event: any) => event.detail.element.removeEventListener(IMAGE_RENDERED, draw);
  cornerstone.eventTarget.addEventListener(ELEMENT_ENABLED, enabled);
  cornerstone.eventTarget.addEventListener(ELEMENT_DISABLED, disabled);
  return () => {
    cornerstone.eventTarget.removeEventListener(ELEMENT_ENABLED, enabled);
    cornerstone.eventTarget.removeEventListener(ELEMENT_DISABLED, disabled);
  };
}

function show(cornerstone: any, viewport: any, state: Record<string, any> | undefined): void {
  const layer = layerOf(viewport.element);
  layer.replaceChildren();
  const imageId = viewport.getCurrentImageId?.();
  const image = imageId && cornerstone.metaData.get('instance', imageId);
  if (!state || !image) return;
  const frame = numberOr(/\/frames\/(\d+)/.exec(imageId)?.[1], 1);
  const said = presentationOf(state, image.SOPInstanceUID, frame, image.Rows, image.Columns);
  setGreyLevels(viewport, layer, `${state.SOPInstanceUID} ${imageId}`, said);
  const toCanvas = (point: Point) => viewport.worldToCanvas(cornerstone.utilities.imageToWorldCoords(imageId, point)) as Point;
  layer.append(...elements(said, toCanvas));
}

/** Once for each image, so that a reader's own window stays. */
function setGreyLevels(viewport: any, layer: SVGElement, shown: string, said: Presentation): void {
  if (layer.dataset.shown === shown) return;
  layer.dataset.shown = shown;
  const properties = { ...(said.window && { voiRange: said.window }), ...(said.invert !== undefined && { invert: said.invert }) };
  if (Object.keys(properties).length === 0) return;
  viewport.setProperties(properties);
  viewport.render();
}

/** The SVG over the viewport, made when it is first needed. */
function layerOf(element: HTMLElement): SVGElement {
  const there = element.querySelector<SVGElement>(':scope > svg.presentation-state');
  if (there) return there;
  const layer = document.createElementNS(SVG, 'svg');
  layer.setAttribute('class', 'presentation-state');
  layer.setAttribute('style', 'position:absolute;inset:0;width:100%;height:100%;pointer-events:none;overflow:hidden');
  element.append(layer);
  return layer;
}

function elements(said: Presentation, toCanvas: (point: Point) => Point): SVGElement[] {
  const lines = said.lines.map(line => polyline(line.points.map(toCanvas), line.filled));
  const texts = said.labels.flatMap(label => {
    const at = toCanvas(label.at);
    const leader = label.anchor ? [polyline([at, toCanvas(label.anchor)], false)] : [];
    return [...leader, textAt(at, label.lines)];
  });
  const missing = said.notApplied.length > 0 ? [textAt([10, 60], [`Not applied of this state: ${said.notApplied.join(', ')}`])] : [];
  return [...lines, ...texts, ...missing];
}

function polyline(points: Point[], filled: boolean): SVGElement {
  const line = document.createElementNS(SVG, 'polyline');
  line.setAttribute('points', points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(' '));
  line.setAttribute('style', `stroke:${COLOUR};stroke-width:2;fill:${filled ? COLOUR : 'none'};fill-opacity:.3`);
  return line;
}

function textAt([x, y]: Point, lines: string[]): SVGElement {
  const text = document.createElementNS(SVG, 'text');
  text.setAttribute('style', `fill:${COLOUR};font:14px sans-serif;paint-order:stroke;stroke:#000;stroke-width:3px`);
  lines.forEach((words, index) => {
    const line = document.createElementNS(SVG, 'tspan');
    line.setAttribute('x', x.toFixed(1));
    line.setAttribute('y', (y + LINE_HEIGHT * (index + 1)).toFixed(1));
    line.textContent = words;
    text.append(line);
  });
  return text;
}
