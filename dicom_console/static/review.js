// Boxes drawn on the image and their edges as numbers: each shows the other. Without it the numbers do.
const stage = document.getElementById("stage");
const drawn = document.getElementById("drawn");
const rows = [...document.querySelectorAll(".edges tbody tr")];
const width = Number(stage.dataset.columns);
const height = Number(stage.dataset.rows);
const inputs = (row) => [...row.querySelectorAll("input")];
const edges = (row) => inputs(row).map((one) => (one.value === "" ? NaN : Number(one.value)));

const show = () => {
  drawn.replaceChildren(
    ...rows.flatMap((row) => {
      const [left, top, right, bottom] = edges(row);
      if (!(left < right && top < bottom)) return [];
      const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const given = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(given)) box.setAttribute(name, value);
      return [box];
    }),
  );
};

const fill = (row, values) => {
  inputs(row).forEach((one, place) => (one.value = values[place]));
  show();
};

// Where the pointer is, in pixels of the image, within it.
const place = (event) => {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
  return [Math.min(Math.max(at.x, 0), width), Math.min(Math.max(at.y, 0), height)];
};

let begun = null;
stage.addEventListener("pointerdown", (event) => {
  const free = rows.find((row) => inputs(row).every((one) => one.value === ""));
  if (!free || event.button !== 0) return;
  begun = { at: place(event), row: free };
  stage.setPointerCapture(event.pointerId);
  event.preventDefault();
});
stage.addEventListener("pointermove", (event) => {
  if (!begun) return;
  const [x, y] = place(event);
  const [left, right] = [begun.at[0], x].sort((a, b) => a - b);
  const [top, bottom] = [begun.at[1], y].sort((a, b) => a - b);
  fill(begun.row, [Math.floor(left), Math.floor(top), Math.ceil(right), Math.ceil(bottom)]);
});
const end = () => {
  if (!begun) return;
  const [left, top, right, bottom] = edges(begun.row);
  if (!(right - left > 2 && bottom - top > 2)) fill(begun.row, ["", "", "", ""]);
  begun = null;
};
stage.addEventListener("pointerup", end);
stage.addEventListener("pointercancel", end);

for (const row of rows) {
  row.addEventListener("input", show);
  const clear = row.querySelector(".clear");
  clear.hidden = false;
  clear.addEventListener("click", () => fill(row, ["", "", "", ""]));
}
document.querySelectorAll(".scripted").forEach((one) => (one.hidden = false));
stage.classList.add("drawing");
show();
