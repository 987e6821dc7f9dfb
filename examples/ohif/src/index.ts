/**
 * An extension for OHIF 3.13: what it does not show of results on CR, DX and US.
 *
 * Its handlers stand before OHIF's own. Those of reports and segmentations mend the metadata and return
 * nothing, so that OHIF's handlers go on; that of presentation states returns the images as the state shows them.
 */
import { type Dataset } from './dicom';
import { drawStates } from './overlay';
import { imagesOf } from './presentationStates';
import { mendReport } from './reports';
import { mendSegmentation } from './segmentations';

const ID = 'ohif-extension-plane-images';
const STACK = '@ohif/extension-default.sopClassHandlerModule.stack';
const STORAGE = '1.2.840.10008.5.1.4.1.1.';
const REPORTS = ['88.22', '88.33', '88.34'].map(end => STORAGE + end);
const SEGMENTATIONS = ['66.4', '66.7'].map(end => STORAGE + end);
/** Grayscale, colour and pseudo-colour softcopy presentation states. */
const STATES = ['11.1', '11.2', '11.3'].map(end => STORAGE + end);
const HANDLERS = ['reports', 'segmentations', 'presentation-states'].map(name => `${ID}.sopClassHandlerModule.${name}`);

export const extension = {
  id: ID,
  version: '1.0.0',
  onModeEnter: ({ servicesManager }: any): void => {
    leaveMode();
    const { services } = servicesManager;
    const stateOf = (viewportId: string) => shownIn(services, viewportId).find(set => set.presentationState)?.presentationState;
    stopDrawing = drawStates((window as any).cornerstone, stateOf, viewportId => drawReport(services, viewportId));
  },
  onModeExit: (): void => leaveMode(),
  getSopClassHandlerModule({ servicesManager }: any) {
    const { services } = servicesManager;
    return [
      handler('reports', REPORTS, instances => (instances.forEach(mendReport), [])),
      handler('segmentations', SEGMENTATIONS, instances => {
        instances.forEach(one => mendSegmentation(one, uid => instanceOf(services, uid)));
        return [];
      }),
      handler('presentation-states', STATES, instances => instances.map(one => imagesAsShown(services, one))),
    ];
  },
};

// Not among the mode's `extensions`: OHIF would import each of those by name, and this one it has already.
const change = { sopClassHandlers: { $unshift: HANDLERS } };
/** For `modesConfiguration` of OHIF's configuration. */
export const modesConfiguration = { '@ohif/mode-longitudinal': change, '@ohif/mode-basic': change };

let stopDrawing: (() => void) | undefined;

function leaveMode(): void {
  stopDrawing?.();
  stopDrawing = undefined;
}

function handler(name: string, sopClassUids: string[], getDisplaySetsFromSeries: (instances: Dataset[]) => object[]) {
  return { name, sopClassUids, getDisplaySetsFromSeries };
}

/** The images of a state as a stack of its own, which OHIF's viewport of images shows; images may come later. */
function imagesAsShown(services: any, state: Dataset): Dataset {
  const wanted = imagesOf(state);
  const images = () => wanted.map(uid => instanceOf(services, uid)).filter(Boolean);
  const set: Dataset = {
    displaySetInstanceUID: `${ID}:${state.SOPInstanceUID}`,
    SOPClassHandlerId: STACK,
    SOPClassUID: state.SOPClassUID,
    SOPInstanceUID: state.SOPInstanceUID,
    SeriesInstanceUID: state.SeriesInstanceUID,
    StudyInstanceUID: state.StudyInstanceUID,
    SeriesNumber: state.SeriesNumber,
    SeriesDescription: state.SeriesDescription ?? state.ContentLabel,
    SeriesDate: state.SeriesDate ?? state.PresentationCreationDate,
    label: state.SeriesDescription ?? state.ContentLabel ?? 'Presentation state',
    Modality: 'PR',
    isReconstructable: false,
    supportsWindowLevel: true,
    presentationState: state,
    instance: state,
    numImageFrames: wanted.length,
    images: images(),
    instances: images(),
    getAttribute: (name: string) => set[name],
    setAttribute: (name: string, value: unknown) => (set[name] = value),
  };
  if (set.images.length < wanted.length) {
    const { displaySetService } = services;
    const { unsubscribe } = displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, () => {
      set.images = set.instances = images();
      if (set.images.length === wanted.length) unsubscribe();
    });
  }
  return set;
}

function instanceOf(services: any, uid: string): Dataset | undefined {
  const sets: Dataset[] = services.displaySetService.getActiveDisplaySets();
  const instances = sets.filter(set => set.Modality !== 'PR').flatMap(set => set.instances ?? set.images ?? []);
  return instances.find(instance => instance.SOPInstanceUID === uid);
}

/** The display sets in a viewport. */
function shownIn(services: any, viewportId: string): Dataset[] {
  const shown: string[] = services.viewportGridService.getState().viewports.get(viewportId)?.displaySetInstanceUIDs ?? [];
  return shown.map(uid => services.displaySetService.getDisplaySetByUID(uid)).filter(Boolean);
}

/** OHIF draws the shapes of a report it does not offer to take over only when something moves: draw them. */
function drawReport(services: any, viewportId: string): void {
  if (!shownIn(services, viewportId).some(set => set.Modality === 'SR')) return;
  const { cornerstone, cornerstoneTools } = window as any;
  for (const wait of [300, 1500]) {
    setTimeout(() => {
      if (cornerstone.getEnabledElementByViewportId(viewportId))
        cornerstoneTools.utilities.triggerAnnotationRenderForViewportIds([viewportId]);
    }, wait);
  }
}
