// The viewer of an image: zoom, window on the real samples, measure, frames, overlays, before and after.
// Without this script the page shows the picture, and its links do what they can.
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function mount(viewer) {
  const part = (name) => viewer.querySelector(name);
  const stage = part(".stage"), canvas = part("canvas"), received = part(".received"), lines = part(".lengths");
  const about = JSON.parse(viewer.dataset.about);
  const columns = about.columns, rows = about.rows, frames = about.frames;
  const view = { x: 0, y: 0, scale: 1 }; // of the picture in the stage; 1: all of it is seen
  let frame = about.frame, tool = "move", samples = null, window_ = null, inverted = false, picture = null;

  // What the stage shows, in the picture's pixels: of the stage's form, so that an enlarged picture fills it.
  const box = () => {
    const place = stage.getBoundingClientRect();
    const fit = Math.min(place.width / columns, place.height / rows) * view.scale;
    return { width: place.width / fit, height: place.height / fit };
  };

  const draw = () => {
    if (!stage.getBoundingClientRect().width) return; // not laid out yet, or hidden: no number comes of it
    const { width, height } = box();
    // Where there is room beside the picture, it is in the middle.
    view.x = width > columns ? (columns - width) / 2 : clamp(view.x, 0, columns - width);
    view.y = height > rows ? (rows - height) / 2 : clamp(view.y, 0, rows - height);
    stage.setAttribute("viewBox", `${view.x} ${view.y} ${width} ${height}`);
    stage.dataset.scale = view.scale.toFixed(2);
    if (!picture) return;
    const place = stage.getBoundingClientRect();
    canvas.width = Math.round(place.width * devicePixelRatio);
    canvas.height = Math.round(place.height * devicePixelRatio);
    const fit = canvas.width / width;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = fit < 4; // single pixels are seen as they are
    pen.setTransform(fit, 0, 0, fit, -view.x * fit, -view.y * fit);
    pen.drawImage(picture, 0, 0);
  };

  // Where on the picture an event happened.
  const at = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
    return { x: place.x, y: place.y };
  };

  const zoom = (by, centre = { x: view.x + box().width / 2, y: view.y + box().height / 2 }) => {
    const scale = clamp(view.scale * by, 1, 40);
    view.x = centre.x - ((centre.x - view.x) * view.scale) / scale;
    view.y = centre.y - ((centre.y - view.y) * view.scale) / scale;
    view.scale = scale;
    draw();
    if (scale > 1) load(); // the preview has 1,600 pixels at most
  };

  // The real samples of this frame, as the server's header describes them.
  const load = async () => {
    if (samples?.frame === frame) return;
    const wanted = frame;
    const answer = await fetch(`${viewer.dataset.samples}/${wanted}/samples`);
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      return say(page.querySelector(".problem")?.textContent ?? answer.statusText);
    }
    const told = JSON.parse(answer.headers.get("X-Samples"));
    const data = await answer.arrayBuffer();
    if (wanted !== frame) return;
    const values = { u1: Uint8Array, u2: Uint16Array, i2: Int16Array, f4: Float32Array, rgb: Uint8Array }[told.type];
    samples = { ...told, frame: wanted, values: new values(data) };
    window_ ??= { ...told.window };
    paint();
  };

  // PS3.3 C.11.2.1.2: from values to 0 … 255.
  const shade = () => {
    const { centre, width } = window_;
    if (window_.function === "SIGMOID") return (value) => 255 / (1 + Math.exp((-4 * (value - centre)) / width));
    const exact = window_.function === "LINEAR_EXACT";
    const low = exact ? centre - width / 2 : centre - 0.5 - (width - 1) / 2;
    const range = Math.max(exact ? width : width - 1, 1e-6);
    return (value) => clamp(((value - low) / range) * 255, 0, 255);
  };

  const paint = () => {
    const { values, type } = samples;
    const pixels = new ImageData(columns, rows);
    const out = new Uint32Array(pixels.data.buffer);
    const turned = inverted ? 0xffffff : 0;
    if (type === "rgb") {
      for (let i = 0, j = 0; i < out.length; i++, j += 3)
        out[i] = ((values[j] | (values[j + 1] << 8) | (values[j + 2] << 16)) ^ turned) | 0xff000000;
    } else {
      const grey = shade(), flip = inverted !== samples.inverted;
      const colour = (value) => {
        const level = Math.round(flip ? 255 - grey(value) : grey(value));
        return (0xff000000 | (level << 16) | (level << 8) | level) >>> 0;
      };
      if (type === "f4") for (let i = 0; i < out.length; i++) out[i] = colour(values[i]);
      else {
        const lowest = type === "i2" ? -32768 : 0;
        const table = Uint32Array.from({ length: 65536 }, (_, i) => colour(i + lowest));
        for (let i = 0; i < out.length; i++) out[i] = table[values[i] - lowest];
      }
    }
    picture = new OffscreenCanvas(columns, rows);
    picture.getContext("2d").putImageData(pixels, 0, 0);
    received.setAttribute("visibility", "hidden");
    part(".window").textContent = type === "rgb" ? "" : `${window_.centre.toFixed(0)} / ${window_.width.toFixed(0)}`;
    draw();
  };

  const say = (text) => (part(".said").textContent = text);

  const setWindow = async (change) => {
    await load();
    if (!samples || samples.type === "rgb") return;
    window_ = { ...window_, ...change(window_) };
    window_.width = Math.max(window_.width, 1);
    paint();
  };

  // A length between two points, in millimetres only where the image says how large its pixels are.
  const length = (from, to) => {
    const holds = ([left, top, right, bottom], p) => left <= p.x && p.x <= right && top <= p.y && p.y <= bottom;
    const known = about.regions.find((one) => holds(one.box, from) && holds(one.box, to));
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    if (!known) return `${Math.hypot(dx, dy).toFixed(0)} ${viewer.dataset.pixels}`;
    return `${Math.hypot(dx * known.column, dy * known.row).toFixed(1)} mm${known.note}`;
  };

  const measure = (line, from, to) => {
    const [rule, text] = line.children;
    for (const [key, value] of Object.entries({ x1: from.x, y1: from.y, x2: to.x, y2: to.y })) rule.setAttribute(key, value);
    text.setAttribute("x", to.x);
    text.setAttribute("y", to.y);
    text.setAttribute("font-size", rows / 30 / view.scale);
    text.textContent = length(from, to);
  };

  const newLine = () => {
    const [group, rule, text] = ["g", "line", "text"].map((name) => document.createElementNS(stage.namespaceURI, name));
    group.append(rule, text);
    lines.append(group);
    return group;
  };

  // A box that a person draws: the page that wants boxes listens.
  const box_ = (event, ends = false) => stage.dispatchEvent(new CustomEvent("box", { detail: { from: begun.from, to: at(event), ends } }));

  // Mouse, pen and fingers: one moves, sets the window or measures; two zoom.
  const fingers = new Map();
  let begun = null;
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    const from = at(event);
    begun = { from, event, window: { ...(window_ ?? {}) }, line: tool === "measure" && fingers.size === 1 ? newLine() : null };
    if (tool === "window") load();
    if (tool === "box") box_(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId) || !begun) return;
    const before = fingers.get(event.pointerId);
    fingers.set(event.pointerId, event);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()];
      const other = a.pointerId === event.pointerId ? b : a;
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoom(apart(event) / Math.max(apart(before), 1), at({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 }));
    } else if (tool === "box") box_(event);
    else if (tool === "measure" && begun.line) measure(begun.line, begun.from, at(event));
    else if (tool === "move") {
      const [was, is] = [at(before), at(event)];
      view.x += was.x - is.x;
      view.y += was.y - is.y;
      draw();
    } else if (tool === "window" && samples && window_) {
      begun.window.width ??= window_.width;
      begun.window.centre ??= window_.centre;
      const step = samples.window.width / 300;
      setWindow(() => ({
        width: begun.window.width + (event.clientX - begun.event.clientX) * step,
        centre: begun.window.centre + (event.clientY - begun.event.clientY) * step,
      }));
    }
  });
  for (const end of ["pointerup", "pointercancel"])
    stage.addEventListener(end, (event) => {
      if (tool === "box" && begun && fingers.size === 1) box_(event, true);
      fingers.delete(event.pointerId);
    });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, at(event));
  }, { passive: false });

  // Overlays, one by one: each tick has the name of what it shows.
  const overlays = () => {
    const shown = new Set([...viewer.querySelectorAll("[data-shows]:checked")].map((one) => one.dataset.shows));
    for (const mark of viewer.querySelectorAll(".mark")) {
      const of = mark.dataset.on.split(" ").filter(Boolean);
      mark.classList.toggle("off", !shown.has(mark.dataset.name) || (of.length > 0 && !of.includes(String(frame))));
    }
  };
  viewer.addEventListener("change", overlays);

  const slider = part(".compare input");
  const split = () => {
    const after = part("clipPath rect"), edge = (columns * (100 - slider.value)) / 100;
    after.setAttribute("x", edge);
    for (const end of ["x1", "x2"]) part(".divide").setAttribute(end, edge);
    after.setAttribute("width", (columns * slider.value) / 100);
  };
  slider?.addEventListener("input", split);

  // Frames. Each is fetched once; a picture is shown when all that belongs to its frame has come.
  const cine = part(".cine input"), play = part(".play");
  const layers = [...viewer.querySelectorAll("[data-frames-at]")];
  const come = new Map();
  const fetched = (number) => {
    if (!come.has(number))
      come.set(number, Promise.all(layers.map((one) => Object.assign(new Image(), { src: one.dataset.framesAt + number }).decode())));
    return come.get(number);
  };
  const show = async (number) => {
    frame = number;
    cine.value = number;
    await fetched(number);
    if (frame !== number) return;
    for (const one of layers) one.setAttribute("href", one.dataset.framesAt + number);
    part(".cine output").textContent = `${number} / ${frames}`;
    overlays();
    if (window_ && (samples.window.centre !== window_.centre || samples.window.width !== window_.width || inverted)) return load();
    picture = samples = null;
    received.removeAttribute("visibility");
    canvas.getContext("2d").reset?.();
  };
  let playing = false, runs = 0;
  const run = async () => {
    const mine = ++runs; // stopped and begun again at once: only the newest one goes on
    for (let next = frame; playing && mine === runs; ) {
      const due = performance.now() + 1000 / about.rate;
      next = (next % frames) + 1;
      fetched((next % frames) + 1).catch(() => {});
      await show(next);
      await new Promise((go) => setTimeout(go, Math.max(due - performance.now(), 0)));
    }
  };
  const toggle = () => {
    playing = !playing;
    play.setAttribute("aria-pressed", playing);
    if (playing) run();
  };
  const step = (by) => frames > 1 && show(((frame - 1 + by + frames) % frames) + 1);
  cine?.addEventListener("input", () => show(Number(cine.value)));
  play?.addEventListener("click", toggle);

  const use = (name) => {
    tool = name;
    stage.dataset.tool = name;
    for (const one of viewer.querySelectorAll("button[data-tool]")) one.setAttribute("aria-pressed", one.dataset.tool === name);
  };
  const acts = {
    in: () => zoom(1.4),
    out: () => zoom(1 / 1.4),
    fit: () => {
      Object.assign(view, { x: 0, y: 0, scale: 1 });
      lines.replaceChildren();
      inverted = false;
      window_ = samples ? { ...samples.window } : null;
      samples ? paint() : draw();
    },
    invert: async () => {
      inverted = !inverted;
      await load();
      if (samples) paint();
    },
    full: () => (document.fullscreenElement ? document.exitFullscreen() : viewer.requestFullscreen()),
    move: () => use("move"),
    window: () => use("window"),
    measure: () => use("measure"),
    box: () => use("box"),
    play: () => cine && toggle(),
    before: () => step(-1),
    after: () => step(1),
    marks: () => {
      const ticks = [...viewer.querySelectorAll("[data-shows]")], on = ticks.some((one) => one.checked);
      for (const one of ticks) one.checked = !on;
      overlays();
    },
  };
  const keys = { "+": "in", "=": "in", "-": "out", 0: "fit", i: "invert", f: "full", p: "move", w: "window", m: "measure", d: "box", " ": "play", ",": "before", ".": "after", b: "marks" };
  viewer.addEventListener("click", (event) => {
    const name = event.target.closest("[data-act]")?.dataset.act;
    if (name) acts[name]();
  });
  part(".presets")?.addEventListener("change", (event) => {
    const [centre, width] = event.target.value.split(" ").map(Number);
    if (width) setWindow(() => ({ centre, width }));
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
    if (event.key === " " && event.target.matches("button, input, a, summary")) return;
    if (!keys[event.key] || (keys[event.key] === "box" && !part("[data-tool=box]"))) return;
    event.preventDefault();
    acts[keys[event.key]]();
  });
  addEventListener("resize", draw);
  document.addEventListener("fullscreenchange", draw);

  use(part("[data-tool=box]") ? "box" : "move");
  overlays();
  part(".tools").hidden = false;
  part(".plain").hidden = true;
  stage.style.aspectRatio = `${columns} / ${rows}`; // as before: the part that is shown has the stage's form
  draw();
  if (slider) split();
}

for (const viewer of document.querySelectorAll(".viewer[data-about]")) mount(viewer);
