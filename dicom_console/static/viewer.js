// The slider between an image as received and cleaned, and the frames of a cine. Without it the links do the same.
const viewer = document.querySelector(".viewer");
const compare = document.getElementById("compare");
const cine = document.getElementById("cine");

if (compare) {
  const after = document.querySelector("#after rect");
  const width = Number(after.getAttribute("width"));
  const slider = compare.querySelector("input");
  const split = () => {
    const from = (width * slider.value) / 100;
    after.setAttribute("x", from);
    after.setAttribute("width", width - from);
  };
  slider.addEventListener("input", split);
  compare.hidden = false;
  split();
}

if (cine) {
  const slider = cine.querySelector("input");
  const play = document.getElementById("play");
  const pictures = document.querySelectorAll("[data-frames-at]");
  const last = Number(viewer.dataset.frames);
  let shown = Number(viewer.dataset.frame);
  let playing = false;

  // A picture is shown when all that belongs to its frame has come: no frame under the marks of another.
  const show = async (frame) => {
    const addresses = [...pictures].map((one) => one.dataset.framesAt + frame);
    await Promise.all(addresses.map((address) => Object.assign(new Image(), { src: address }).decode()));
    if (Number(slider.value) !== frame) return;
    shown = frame;
    pictures.forEach((one, place) => one.setAttribute("href", addresses[place]));
    for (const mark of document.querySelectorAll(".mark")) {
      const frames = mark.dataset.on.split(" ").filter(Boolean);
      mark.classList.toggle("off", frames.length > 0 && !frames.includes(String(frame)));
    }
    cine.querySelector("output").textContent = `${frame} of ${last}`;
  };
  const step = async () => {
    if (!playing) return;
    slider.value = (shown % last) + 1;
    await show(Number(slider.value));
    setTimeout(step, 120);
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  play.addEventListener("click", () => {
    playing = !playing;
    play.textContent = playing ? "Stop" : "Play";
    step();
  });
  cine.hidden = play.hidden = false;
}
