import assert from 'node:assert/strict';
import test from 'node:test';
import { type Dataset, items } from '../src/dicom';
import { mendSegmentation } from '../src/segmentations';

const FILM = { SOPInstanceUID: '1.2.3', Rows: 512, Columns: 448 };
const imageOf = (image: Dataset = FILM) => (uid: string) => (uid === image.SOPInstanceUID ? image : undefined);
const segmentation = (...images: string[]): Dataset => ({
  Rows: 512,
  Columns: 448,
  SharedFunctionalGroupsSequence: [{}],
  PerFrameFunctionalGroupsSequence: [{}, {}],
  ReferencedSeriesSequence: [{ ReferencedInstanceSequence: images.map(uid => ({ ReferencedSOPInstanceUID: uid })) }],
});
const orientation = (one: Dataset) => items(one.SharedFunctionalGroupsSequence)[0]?.PlaneOrientationSequence?.ImageOrientationPatient;

test('a segmentation of a film without orientation gets the one that OHIF assumes for films', () => {
  const one = segmentation('1.2.3');
  mendSegmentation(one, imageOf());
  assert.deepEqual(orientation(one), [1, 0, 0, 0, 1, 0]);
});

test('it has pixel measures, which OHIF reads without asking', () => {
  const one = segmentation('1.2.3');
  mendSegmentation(one, imageOf());
  assert.equal(items(items(one.SharedFunctionalGroupsSequence)[0]?.PixelMeasuresSequence)[0]?.SpacingBetweenSlices, 1);
});

test('each frame names its source image', () => {
  const one = segmentation('1.2.3');
  mendSegmentation(one, imageOf());
  for (const frame of items(one.PerFrameFunctionalGroupsSequence))
    assert.equal(frame.DerivationImageSequence.SourceImageSequence.ReferencedSOPInstanceUID, '1.2.3');
});

test('the orientation of the image is taken where it has one', () => {
  const one = segmentation('1.2.3');
  mendSegmentation(one, imageOf({ ...FILM, ImageOrientationPatient: [0, 1, 0, 0, 0, -1] }));
  assert.deepEqual(orientation(one), [0, 1, 0, 0, 0, -1]);
});

for (const [why, one, image] of [
  ['of another grid', segmentation('1.2.3'), { ...FILM, Rows: 256 }],
  ['of several images', segmentation('1.2.3', '1.2.4'), FILM],
  ['of no image', segmentation(), FILM],
] as [string, Dataset, Dataset][]) {
  test(`a segmentation ${why} is left alone`, () => {
    const before = structuredClone(one);
    mendSegmentation(one, imageOf(image));
    assert.deepEqual(one, before);
  });
}

test('a segmentation with an orientation in a frame is left alone', () => {
  const one = segmentation('1.2.3');
  one.PerFrameFunctionalGroupsSequence[1].PlaneOrientationSequence = [{ ImageOrientationPatient: [1, 0, 0, 0, 1, 0] }];
  const before = structuredClone(one);
  mendSegmentation(one, imageOf());
  assert.deepEqual(one, before);
});
