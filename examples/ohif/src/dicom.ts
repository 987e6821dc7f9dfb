/** DICOM as OHIF keeps it: data sets with keywords, sequences as arrays (one item may stand alone). */

export type Dataset = Record<string, any>;
/** Column and row, in pixels of the image; 0, 0 is the upper left corner of the first pixel (PS3.3 C.10.5.1.2). */
export type Point = [number, number];

/** The items of a sequence; none if it is absent. */
export function items(sequence: unknown): Dataset[] {
  if (Array.isArray(sequence)) return sequence.filter(item => item !== null && typeof item === 'object');
  return sequence !== null && typeof sequence === 'object' ? [sequence as Dataset] : [];
}

/** The value and scheme of a content item's concept name, such as "DCM:126000"; empty without one. */
export function nameOf(item: Dataset): string {
  const code = items(item.ConceptNameCodeSequence)[0];
  return code ? `${code.CodingSchemeDesignator}:${code.CodeValue ?? code.LongCodeValue}` : '';
}

/** Numbers of an attribute with one or more values; what is no number is left out. */
export function numbers(value: unknown): number[] {
  const values = typeof value === 'string' ? value.split('\\') : Array.from((value as Iterable<unknown>) ?? []);
  return values.map(Number).filter(Number.isFinite);
}

/** The number; the other one if it is none. */
export function numberOr(value: unknown, otherwise: number): number {
  const first = Array.isArray(value) ? value[0] : value;
  return first === undefined || first === null || !Number.isFinite(Number(first)) ? otherwise : Number(first);
}
