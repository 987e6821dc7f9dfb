/** Segmentations of images without orientation (CR, DX, US): OHIF 3.13 reads an orientation without asking. */
import { type Dataset, items } from './dicom';

/** What OHIF takes for the rows and columns of an image without Image Orientation (Patient). */
const ASSUMED = [1, 0, 0, 0, 1, 0];

/**
 * Give the segmentation the orientation of its image where it has none, and each frame its source image.
 *
 * `imageOf`: the instance with that SOP Instance UID, if OHIF has it. Only for a segmentation on the pixels
 * of its image: of one image, with the same rows and columns. Nothing is done to any other.
 */
export function mendSegmentation(segmentation: Dataset, imageOf: (uid: string) => Dataset | undefined): void {
  const frames = items(segmentation.PerFrameFunctionalGroupsSequence);
  const shared = items(segmentation.SharedFunctionalGroupsSequence)[0] ?? {};
  const oriented = [shared, ...frames].some(group => items(group.PlaneOrientationSequence).length > 0);
  const [source, ...others] = sourcesOf(segmentation);
  if (oriented || frames.length === 0 || !source || others.length > 0) return;
  const image = imageOf(source.ReferencedSOPInstanceUID);
  if (image && (image.Rows !== segmentation.Rows || image.Columns !== segmentation.Columns)) return;
  const orientation = image?.ImageOrientationPatient ?? ASSUMED;
  // OHIF reads the spacing between slices without asking, too. Pixels are those of the image: 1 is what it has.
  const measures = items(shared.PixelMeasuresSequence)[0] ?? { PixelSpacing: [1, 1], SliceThickness: 1, SpacingBetweenSlices: 1 };
  const groups = {
    ...shared,
    PlaneOrientationSequence: { ImageOrientationPatient: [...orientation] },
    PixelMeasuresSequence: measures,
  };
  segmentation.SharedFunctionalGroupsSequence = groups;
  for (const frame of frames) {
    if (items(frame.DerivationImageSequence).length === 0) frame.DerivationImageSequence = { SourceImageSequence: source };
  }
}

/** The referenced images, each once. */
function sourcesOf(segmentation: Dataset): Dataset[] {
  const series = items(segmentation.ReferencedSeriesSequence);
  const images = series.flatMap(one => items(one.ReferencedInstanceSequence));
  return [...new Map(images.map(image => [image.ReferencedSOPInstanceUID, image])).values()];
}
