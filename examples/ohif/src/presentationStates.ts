/** What a softcopy presentation state (PS3.3 A.33) says of one image: grey levels, graphics and texts. */
import { type Dataset, type Point, items, numberOr, numbers } from './dicom';

/** Lines and texts of a state at most, and points of a line: what is beyond is left out, and named. */
export const MOST = { objects: 2000, points: 20000, characters: 4000 };
const STEPS = 64;

export interface Line {
  points: Point[];
  filled: boolean;
}

export interface Label {
  at: Point;
  lines: string[];
  anchor?: Point;
}

/** Of one image. `window`: lowest and highest value shown. `notApplied`: what a reader must know is missing. */
export interface Presentation {
  window?: { lower: number; upper: number };
  invert?: boolean;
  lines: Line[];
  labels: Label[];
  notApplied: string[];
}

/** The state as it concerns the frame (from 1) of an image of that size in pixels. */
export function presentationOf(state: Dataset, uid: string, frame: number, rows: number, columns: number): Presentation {
  const own = (item: Dataset) => concerns(item, uid, frame);
  const area = items(state.DisplayedAreaSelectionSequence).find(own) ?? {};
  const place = (point: Point, units: string) => (units === 'DISPLAY' ? inArea(point, area, rows, columns) : point);
  const annotations = items(state.GraphicAnnotationSequence).filter(own);
  const graphics = annotations.flatMap(one => items(one.GraphicObjectSequence));
  const texts = annotations.flatMap(one => items(one.TextObjectSequence));
  const lines = graphics.slice(0, MOST.objects).flatMap(graphic => lineOf(graphic, place));
  const labels = texts.slice(0, MOST.objects).flatMap(text => labelOf(text, place));
  const shape = state.PresentationLUTShape;
  return {
    window: windowOf(items(state.SoftcopyVOILUTSequence).find(own)),
    invert: shape === undefined ? undefined : shape === 'INVERSE',
    lines,
    labels,
    notApplied: [...notApplied(state, annotations), ...tooMany(graphics.length, texts.length)],
  };
}

/** The UIDs of all images that the state is of. */
export function imagesOf(state: Dataset): string[] {
  const series = items(state.ReferencedSeriesSequence);
  return series.flatMap(one => items(one.ReferencedImageSequence)).map(image => String(image.ReferencedSOPInstanceUID));
}

/** An item without Referenced Image Sequence is of every image, one without frames of every frame. */
function concerns(item: Dataset, uid: string, frame: number): boolean {
  const images = items(item.ReferencedImageSequence);
  if (images.length === 0) return true;
  return images.some(image => {
    const frames = numbers([image.ReferencedFrameNumber ?? []].flat());
    return image.ReferencedSOPInstanceUID === uid && (frames.length === 0 || frames.includes(frame));
  });
}

/** DISPLAY units are shares of the displayed area (PS3.3 C.10.4), whose corners are counted from 1. */
function inArea([x, y]: Point, area: Dataset, rows: number, columns: number): Point {
  const [left = 1, top = 1] = numbers(area.DisplayedAreaTopLeftHandCorner);
  const [right = columns, bottom = rows] = numbers(area.DisplayedAreaBottomRightHandCorner);
  return [left - 1 + x * (right - left + 1), top - 1 + y * (bottom - top + 1)];
}

/** Window Center and Width as lowest and highest value (PS3.3 C.11.2.1.2.1). */
function windowOf(voi: Dataset | undefined): Presentation['window'] {
  const [centre] = numbers([voi?.WindowCenter ?? []].flat());
  const [width] = numbers([voi?.WindowWidth ?? []].flat());
  if (centre === undefined || width === undefined || width < 1) return undefined;
  return { lower: centre - 0.5 - (width - 1) / 2, upper: centre - 0.5 + (width - 1) / 2 };
}

type Place = (point: Point, units: string) => Point;

function lineOf(graphic: Dataset, place: Place): Line[] {
  const units = graphic.GraphicAnnotationUnits ?? 'PIXEL';
  const given = pairs(numbers(graphic.GraphicData)).slice(0, MOST.points).map(point => place(point, units));
  const points = outline(String(graphic.GraphicType), given);
  return points.length > 1 ? [{ points, filled: graphic.GraphicFilled === 'Y' }] : [];
}

/** The line of a graphic (PS3.3 C.10.5.1.2), curves as short straight lines; none for a type that is unknown. */
export function outline(type: string, points: Point[]): Point[] {
  const [a, b, c, d] = points;
  if (type === 'POLYLINE') return points;
  if (type === 'INTERPOLATED') return throughPoints(points);
  if (type === 'POINT' && a) return ellipse([a[0] - 2, a[1]], [a[0] + 2, a[1]], [a[0], a[1] - 2], [a[0], a[1] + 2]);
  if (type === 'CIRCLE' && a && b) {
    const radius = Math.hypot(b[0] - a[0], b[1] - a[1]);
    return ellipse([a[0] - radius, a[1]], [a[0] + radius, a[1]], [a[0], a[1] - radius], [a[0], a[1] + radius]);
  }
  return type === 'ELLIPSE' && a && b && c && d ? ellipse(a, b, c, d) : [];
}

/** A closed line through the ends `a` and `b` of one axis, `c` and `d` of the other. */
function ellipse(a: Point, b: Point, c: Point, d: Point): Point[] {
  const centre: Point = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const long: Point = [(b[0] - a[0]) / 2, (b[1] - a[1]) / 2];
  const short: Point = [(d[0] - c[0]) / 2, (d[1] - c[1]) / 2];
  return Array.from({ length: STEPS + 1 }, (_, step) => {
    const [cos, sin] = [Math.cos((2 * Math.PI * step) / STEPS), Math.sin((2 * Math.PI * step) / STEPS)];
    return [centre[0] + long[0] * cos + short[0] * sin, centre[1] + long[1] * cos + short[1] * sin] as Point;
  });
}

/** A smooth line (Catmull-Rom) through all points. */
function throughPoints(points: Point[]): Point[] {
  const at = (index: number) => points[Math.min(Math.max(index, 0), points.length - 1)] as Point;
  return points.slice(1).flatMap((_, index) => {
    const [p, q, r, s] = [at(index - 1), at(index), at(index + 1), at(index + 2)];
    return Array.from({ length: 9 }, (_step, step) => {
      const t = step / 8;
      const mix = (k: 0 | 1) =>
        0.5 * (2 * q[k] + (r[k] - p[k]) * t + (2 * p[k] - 5 * q[k] + 4 * r[k] - s[k]) * t ** 2 + (3 * q[k] - p[k] - 3 * r[k] + s[k]) * t ** 3);
      return [mix(0), mix(1)] as Point;
    });
  });
}

function labelOf(text: Dataset, place: Place): Label[] {
  const [corner] = pairs(numbers(text.BoundingBoxTopLeftHandCorner));
  const [anchor] = pairs(numbers(text.AnchorPoint));
  const at = corner && place(corner, text.BoundingBoxAnnotationUnits ?? 'PIXEL');
  const to = anchor && place(anchor, text.AnchorPointAnnotationUnits ?? 'PIXEL');
  const lines = String(text.UnformattedTextValue ?? '').slice(0, MOST.characters).split(/\r\n|\n|\r/);
  if (!at && !to) return [];
  return [{ at: (at ?? to) as Point, lines, anchor: text.AnchorPointVisibility === 'Y' ? to : undefined }];
}

function pairs(values: number[]): Point[] {
  return Array.from({ length: values.length >> 1 }, (_, index) => [values[2 * index], values[2 * index + 1]] as Point);
}

function notApplied(state: Dataset, annotations: Dataset[]): string[] {
  const turned = numberOr(state.ImageRotation, 0) !== 0 || state.ImageHorizontalFlip === 'Y';
  const tables = items(state.SoftcopyVOILUTSequence).some(one => items(one.VOILUTSequence).length > 0);
  return [
    turned ? 'rotation or flip' : '',
    state.ShutterShape ? 'shutter' : '',
    tables || items(state.PresentationLUTSequence).length > 0 ? 'look-up table' : '',
    annotations.some(one => items(one.CompoundGraphicSequence).length > 0) ? 'compound graphics' : '',
    items(state.MaskSubtractionSequence).length > 0 ? 'subtraction' : '',
  ].filter(Boolean);
}

function tooMany(graphics: number, texts: number): string[] {
  return graphics > MOST.objects || texts > MOST.objects ? [`graphics and texts beyond ${MOST.objects}`] : [];
}
