import assert from 'node:assert/strict';
import test from 'node:test';
import type { Dataset, Point } from '../src/dicom';
import { MOST, imagesOf, outline, presentationOf } from '../src/presentationStates';

const UID = '1.2.3';
const ref = (uid = UID, frames?: number | number[]) => ({ ReferencedSOPInstanceUID: uid, ReferencedFrameNumber: frames });
const graphic = (type: string, data: number[], rest: Dataset = {}) => ({ GraphicType: type, GraphicData: data, GraphicAnnotationUnits: 'PIXEL', ...rest });
const state = (rest: Dataset): Dataset => ({ ReferencedSeriesSequence: [{ ReferencedImageSequence: [ref()] }], ...rest });
const annotated = (graphics: Dataset[], images?: Dataset[], texts: Dataset[] = []) =>
  state({ GraphicAnnotationSequence: [{ ReferencedImageSequence: images, GraphicObjectSequence: graphics, TextObjectSequence: texts }] });
const shown = (one: Dataset, uid = UID, frame = 1) => presentationOf(one, uid, frame, 100, 200);
const box = [1, 1, 9, 1, 9, 9, 1, 9, 1, 1];

test('a polyline is drawn at its pixels', () => {
  assert.deepEqual(shown(annotated([graphic('POLYLINE', box)])).lines[0]?.points[1], [9, 1]);
});

test('annotations of another image are not drawn', () => {
  assert.equal(shown(annotated([graphic('POLYLINE', box)], [ref('9.9')])).lines.length, 0);
});

test('annotations of a frame are drawn on that frame alone', () => {
  const one = annotated([graphic('POLYLINE', box)], [ref(UID, [2, 3])]);
  assert.deepEqual([1, 2, 3].map(frame => shown(one, UID, frame).lines.length), [0, 1, 1]);
});

test('units DISPLAY are shares of the displayed area', () => {
  const area = { DisplayedAreaTopLeftHandCorner: [51, 21], DisplayedAreaBottomRightHandCorner: [150, 70] };
  const one = { ...annotated([graphic('POLYLINE', [0, 0, 0.5, 1], { GraphicAnnotationUnits: 'DISPLAY' })]), DisplayedAreaSelectionSequence: [area] };
  assert.deepEqual(shown(one).lines[0]?.points, [[50, 20], [100, 70]]);
});

test('a circle goes through its second point', () => {
  const points = outline('CIRCLE', [[50, 50], [60, 50]]);
  for (const [x, y] of points) assert.ok(Math.abs(Math.hypot(x - 50, y - 50) - 10) < 1e-9);
});

test('an oblique ellipse goes through the ends of its axes', () => {
  const ends: Point[] = [[10, 10], [30, 30], [25, 15], [15, 25]];
  const points = outline('ELLIPSE', ends);
  for (const [x, y] of ends) assert.ok(points.some(([a, b]) => Math.hypot(a - x, b - y) < 1e-9));
});

test('an interpolated line goes through all points', () => {
  const given: Point[] = [[0, 0], [10, 5], [20, 0], [30, 9]];
  const points = outline('INTERPOLATED', given);
  for (const [x, y] of given) assert.ok(points.some(([a, b]) => Math.hypot(a - x, b - y) < 1e-9));
});

test('a graphic of an unknown type is not drawn', () => {
  assert.equal(shown(annotated([graphic('RECTANGLE', box)])).lines.length, 0);
});

test('text stands at its box, in lines, with a line to a visible anchor', () => {
  const text = { UnformattedTextValue: 'AI: effusion\r\nnot for diagnostic use', BoundingBoxTopLeftHandCorner: [5, 6], AnchorPoint: [40, 41], AnchorPointVisibility: 'Y' };
  assert.deepEqual(shown(annotated([], undefined, [text])).labels, [
    { at: [5, 6], lines: ['AI: effusion', 'not for diagnostic use'], anchor: [40, 41] },
  ]);
});

test('the window is that of the image (PS3.3 C.11.2.1.2)', () => {
  const voi = [{ ReferencedImageSequence: [ref('9.9')], WindowCenter: 1, WindowWidth: 2 }, { ReferencedImageSequence: [ref()], WindowCenter: [2048], WindowWidth: [4096] }];
  assert.deepEqual(shown(state({ SoftcopyVOILUTSequence: voi })).window, { lower: 0, upper: 4095 });
});

test('only a state with a Presentation LUT Shape turns grey levels', () => {
  assert.deepEqual(['INVERSE', 'IDENTITY', undefined].map(shape => shown(state({ PresentationLUTShape: shape })).invert), [true, false, undefined]);
});

test('what is not applied is named', () => {
  const one = state({ ImageRotation: 90, ShutterShape: 'CIRCULAR', PresentationLUTSequence: [{}] });
  assert.deepEqual(shown(one).notApplied, ['rotation or flip', 'shutter', 'look-up table']);
});

test('more graphics than a viewer can draw are left out and named', () => {
  const one = annotated(Array.from({ length: MOST.objects + 1 }, () => graphic('POLYLINE', box)));
  assert.equal(shown(one).lines.length, MOST.objects);
  assert.equal(shown(one).notApplied.length, 1);
});

test('coordinates that are no numbers are not drawn', () => {
  assert.equal(shown(annotated([graphic('POLYLINE', [NaN, Infinity])])).lines.length, 0);
});

test('a state names the images that it is of', () => {
  assert.deepEqual(imagesOf(state({})), [UID]);
});
