/**
 * Reports (TID 1500, PS3.16) that OHIF 3.13 shows as a black pane, without their words, or cannot take over.
 *
 * All is done on the copy of the metadata in memory; the stored object stays as it is.
 */
import { type Dataset, items, nameOf } from './dicom';

const MEASUREMENT_REPORT = 'DCM:126000';
const IMAGE_LIBRARY = 'DCM:111028';
const IMAGING_MEASUREMENTS = 'DCM:126010';
const GROUP = 'DCM:125007';
const TRACKING_IDENTIFIER = 'DCM:112039';
const TRACKING_UID = 'DCM:112040';
const FINDING = 'DCM:121071';
const FINDING_SITE = ['SCT:363698007', 'SRT:G-C0E3'];
const PRESENCE = ['SCT:705057003', 'DCM:111112'];
const COMMENT = 'DCM:121106';
/** OHIF compares these meanings where it should compare the codes. */
const MEANINGS: Record<string, string> = {
  [IMAGING_MEASUREMENTS]: 'Imaging Measurements',
  [GROUP]: 'Measurement Group',
  [TRACKING_IDENTIFIER]: 'Tracking Identifier',
  [TRACKING_UID]: 'Tracking Unique Identifier',
};
const DEEPEST = 50;

/** Make a report readable for OHIF: words without a place, a sentence at each shape, codes compared by value. */
export function mendReport(report: Dataset): void {
  if (nameOf(report) !== MEASUREMENT_REPORT) return;
  nameInEnglish(report, 0);
  const [measurements] = items(report.ContentSequence).filter(item => nameOf(item) === IMAGING_MEASUREMENTS);
  const groups = items(measurements?.ContentSequence).filter(item => nameOf(item) === GROUP);
  const located = groups.filter(group => coordinatesOf(group).length > 0);
  if (!measurements || located.length === 0) {
    showAsWords(report);
    return;
  }
  const others = items(measurements.ContentSequence).filter(item => nameOf(item) !== GROUP);
  measurements.ContentSequence = [...others, ...located];
  located.forEach(putWordsAtShape);
  const first = located[0] as Dataset;
  const unlocated = groups.filter(group => !located.includes(group)).map(sentenceOf).filter(Boolean);
  first.ContentSequence = [...items(first.ContentSequence), ...unlocated.map(comment)];
}

/** The spatial coordinates of a group, its own and those of its numbers. */
export function coordinatesOf(group: Dataset): Dataset[] {
  const content = items(group.ContentSequence);
  const below = content.filter(item => item.ValueType === 'NUM').flatMap(item => items(item.ContentSequence));
  return [...content, ...below].filter(item => item.ValueType === 'SCOORD' || item.ValueType === 'SCOORD3D');
}

/** OHIF writes a report of any other title as words: its title has another code here, and no images. */
function showAsWords(report: Dataset): void {
  const title = items(report.ConceptNameCodeSequence)[0] as Dataset;
  report.ConceptNameCodeSequence = { ...title, CodeValue: '18748-4', CodingSchemeDesignator: 'LN' };
  report.ContentSequence = items(report.ContentSequence).filter(item => nameOf(item) !== IMAGE_LIBRARY);
  separateLines(report, 0);
}

/** OHIF writes the items of a container in lines with their names if it is SEPARATE. */
function separateLines(item: Dataset, depth: number): void {
  if (depth > DEEPEST || items(item.ContentSequence).length === 0) return;
  item.ContinuityOfContent = 'SEPARATE';
  items(item.ContentSequence).forEach(child => separateLines(child, depth + 1));
}

function nameInEnglish(item: Dataset, depth: number): void {
  const code = items(item.ConceptNameCodeSequence)[0];
  const meaning = MEANINGS[nameOf(item)];
  if (code && meaning) code.CodeMeaning = meaning;
  if (depth < DEEPEST) items(item.ContentSequence).forEach(child => nameInEnglish(child, depth + 1));
}

/**
 * OHIF writes the comments of a group only if a number has the coordinates (TID 300), and stops at a group
 * without tracking identifiers: give it both.
 */
function putWordsAtShape(group: Dataset, index: number): void {
  const content = items(group.ContentSequence);
  const shapes = content.filter(item => item.ValueType === 'SCOORD' || item.ValueType === 'SCOORD3D');
  const rest = content.filter(item => !shapes.includes(item));
  if (shapes.length > 0) {
    const number = rest.find(item => item.ValueType === 'NUM');
    if (number) number.ContentSequence = [...shapes, ...items(number.ContentSequence)];
    else rest.push({ ValueType: 'NUM', ConceptNameCodeSequence: code('121206', 'DCM', 'Distance'), ContentSequence: shapes });
  }
  if (!rest.some(item => nameOf(item) === COMMENT) && sentenceOf(group)) rest.push(comment(sentenceOf(group)));
  if (!rest.some(item => nameOf(item) === TRACKING_IDENTIFIER))
    rest.unshift({ ValueType: 'TEXT', ConceptNameCodeSequence: code('112039', 'DCM', 'Tracking Identifier'), TextValue: `Region ${index + 1}` });
  if (!rest.some(item => nameOf(item) === TRACKING_UID))
    rest.unshift({ ValueType: 'UIDREF', ConceptNameCodeSequence: code('112040', 'DCM', 'Tracking Unique Identifier'), UID: newUid() });
  group.ContentSequence = rest;
}

/** What a group says in words: finding, site and presence. */
export function sentenceOf(group: Dataset): string {
  const content = items(group.ContentSequence);
  const value = (names: string[]) => {
    const item = content.find(one => names.includes(nameOf(one)));
    return items(item?.ConceptCodeSequence)[0]?.CodeMeaning ?? item?.TextValue;
  };
  const what = [value([FINDING]), value(FINDING_SITE)].filter(Boolean).join(', ');
  return [what, value(PRESENCE)].filter(Boolean).join(': ');
}

function comment(text: string): Dataset {
  return { ValueType: 'TEXT', ConceptNameCodeSequence: code('121106', 'DCM', 'Comment'), TextValue: text };
}

function code(value: string, scheme: string, meaning: string): Dataset {
  return { CodeValue: value, CodingSchemeDesignator: scheme, CodeMeaning: meaning };
}

/** A UID from a random UUID (PS3.5 B.2). */
function newUid(): string {
  return `2.25.${BigInt(`0x${crypto.randomUUID().replaceAll('-', '')}`)}`;
}
