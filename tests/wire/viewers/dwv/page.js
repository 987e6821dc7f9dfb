// Shows as many DICOM files as the address says (?files=2: /0, then /1) in dwv.
import {App, ToolConfig, ViewConfig} from 'dwv';

const app = new App();
window.wanted = Number(new URLSearchParams(location.search).get('files'));
window.loaded = [];
window.failed = [];
app.init({
  dataViewConfigs: {'*': [new ViewConfig('layerGroup0')]},
  tools: {Draw: new ToolConfig(['Rectangle', 'Ruler', 'Roi', 'Ellipse'])},
});

function load() {
  app.loadURLs([`/${window.loaded.length}`]);
}

window.addEventListener('unhandledrejection', event => window.failed.push(String(event.reason)));
window.addEventListener('error', event => window.failed.push(event.message));
for (const name of ['error', 'loaderror']) {
  app.addEventListener(name, event => window.failed.push(String(event.error)));
}
app.addEventListener('load', event => {
  app.render(event.dataid);
  window.loaded.push(event.dataid);
  if (window.loaded.length < window.wanted) {
    load();
  }
});
load();
