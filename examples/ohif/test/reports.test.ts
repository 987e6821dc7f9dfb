import assert from 'node:assert/strict';
import test from 'node:test';
import { type Dataset, items, nameOf } from '../src/dicom';
import { coordinatesOf, mendReport, sentenceOf } from '../src/reports';

const code = (value: string, scheme: string, meaning: string) => ({ CodeValue: value, CodingSchemeDesignator: scheme, CodeMeaning: meaning });
const named = (value: string, meaning: string, rest: Dataset = {}, scheme = 'DCM'): Dataset => ({ ConceptNameCodeSequence: code(value, scheme, meaning), ...rest });
const shape = (): Dataset => named('111030', 'Image Region', { ValueType: 'SCOORD', GraphicType: 'POLYLINE', GraphicData: [1, 1, 9, 1, 9, 9, 1, 9, 1, 1] });
const score = (): Dataset => named('111047', 'Probability', { ValueType: 'NUM', MeasuredValueSequence: { NumericValue: 0.7 } });
const finding = (what: string): Dataset => named('121071', 'Finding', { ValueType: 'CODE', ConceptCodeSequence: code('1', 'SCT', what) });
const site = (): Dataset => named('363698007', 'Finding Site', { ValueType: 'CODE', ConceptCodeSequence: code('3120008', 'SCT', 'Pleura') }, 'SCT');
const tracking = (uid: string): Dataset[] => [
  named('112039', 'Verfolgung', { ValueType: 'TEXT', TextValue: 'Nodule 1' }),
  named('112040', 'Verfolgungs-UID', { ValueType: 'UIDREF', UID: uid }),
];
const group = (...content: Dataset[]): Dataset => named('125007', 'Messgruppe', { ValueType: 'CONTAINER', ContentSequence: content });
const report = (...groups: Dataset[]): Dataset => ({
  ...named('126000', 'Imaging Measurement Report'),
  ContinuityOfContent: 'CONTINUOUS',
  ContentSequence: [
    named('111028', 'Image Library', { ValueType: 'CONTAINER', ContentSequence: [] }),
    named('126010', 'Bildmessungen', { ValueType: 'CONTAINER', ContentSequence: groups }),
    named('C0034375', 'Qualitative Evaluations', { ValueType: 'CONTAINER', ContentSequence: [named('121106', 'Comment', { TextValue: 'seen' })] }, 'UMLS'),
  ],
});
const groupsOf = (one: Dataset) => items(items(one.ContentSequence).find(item => nameOf(item) === 'DCM:126010')?.ContentSequence);
const comments = (one: Dataset) => items(one.ContentSequence).filter(item => nameOf(item) === 'DCM:121106').map(item => item.TextValue);

test('a report without any place gets a title that OHIF shows as words', () => {
  const one = report(group(...tracking('1.2'), finding('Effusion')));
  mendReport(one);
  assert.equal(nameOf(one), 'LN:18748-4');
});

test('its items stand on lines of their own, without the image library', () => {
  const one = report();
  mendReport(one);
  const evaluations = items(one.ContentSequence).at(-1) as Dataset;
  assert.equal(evaluations.ContinuityOfContent, 'SEPARATE');
  assert.ok(!items(one.ContentSequence).some(item => nameOf(item) === 'DCM:111028'));
});

test('a group without coordinates beside one with them does not stop OHIF, and its words stay', () => {
  const one = report(group(...tracking('1.2'), finding('Nodule'), shape()), group(...tracking('1.3'), finding('Effusion')));
  mendReport(one);
  assert.equal(groupsOf(one).length, 1);
  assert.deepEqual(comments(groupsOf(one)[0] as Dataset), ['Nodule', 'Effusion']);
});

test('a region is a number with coordinates, since OHIF writes comments of no other group', () => {
  const one = report(group(...tracking('1.2'), finding('Effusion'), site(), score(), shape()));
  mendReport(one);
  const [mended] = groupsOf(one) as [Dataset];
  const [number] = items(mended.ContentSequence).filter(item => item.ValueType === 'NUM');
  assert.equal(items(number?.ContentSequence)[0]?.ValueType, 'SCOORD');
  assert.deepEqual(comments(mended), ['Effusion, Pleura']);
  assert.equal(coordinatesOf(mended).length, 1);
});

test('a region without a number is drawn, too', () => {
  const one = report(group(...tracking('1.2'), finding('Effusion'), shape()));
  mendReport(one);
  const [number] = items(groupsOf(one)[0]?.ContentSequence).filter(item => item.ValueType === 'NUM');
  assert.equal(number?.MeasuredValueSequence, undefined);
  assert.equal(items(number?.ContentSequence).length, 1);
});

test('comments of the maker stay as they are', () => {
  const said = named('121106', 'Comment', { ValueType: 'TEXT', TextValue: 'AI: effusion suspected' });
  const one = report(group(...tracking('1.2'), finding('Effusion'), said, shape()));
  mendReport(one);
  assert.deepEqual(comments(groupsOf(one)[0] as Dataset), ['AI: effusion suspected']);
});

test('a group without tracking identifiers gets them', () => {
  const one = report(group(finding('Effusion'), shape()));
  mendReport(one);
  const content = items(groupsOf(one)[0]?.ContentSequence);
  assert.match(content.find(item => nameOf(item) === 'DCM:112040')?.UID, /^2\.25\.\d+$/);
  assert.equal(content.find(item => nameOf(item) === 'DCM:112039')?.TextValue, 'Region 1');
});

test('names that OHIF compares by meaning are English', () => {
  const one = report(group(...tracking('1.2'), shape()));
  mendReport(one);
  const [mended] = groupsOf(one) as [Dataset];
  assert.equal(mended.ConceptNameCodeSequence.CodeMeaning, 'Measurement Group');
  const meanings = items(mended.ContentSequence).map(item => item.ConceptNameCodeSequence.CodeMeaning);
  assert.ok(meanings.includes('Tracking Unique Identifier'));
});

test('a report of another title is left alone', () => {
  const one = { ...named('18748-4', 'Diagnostic imaging report', {}, 'LN'), ContentSequence: [] };
  const before = structuredClone(one);
  mendReport(one);
  assert.deepEqual(one, before);
});

test('a tree without end is no endless loop', () => {
  const one = report(group(shape()));
  items(one.ContentSequence)[0]!.ContentSequence = [items(one.ContentSequence)[0]];
  mendReport(one);
  assert.equal(groupsOf(one).length, 1);
});

test('a sentence names finding, site and presence', () => {
  const presence = named('705057003', 'Presence', { ConceptCodeSequence: code('373068000', 'SCT', 'Undetermined') }, 'SCT');
  assert.equal(sentenceOf(group(finding('Effusion'), site(), presence)), 'Effusion, Pleura: Undetermined');
});
