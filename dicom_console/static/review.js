// The desk: boxes drawn on the image and their edges as numbers, each shows the other; keys for what follows.
// Without it the numbers do.
const stage = document.querySelector(".stage");
const drawn = document.querySelector(".stage .drawn");
const rows = [...document.querySelectorAll(".edges tbody tr")];
const { columns, rows: height } = JSON.parse(document.querySelector(".viewer").dataset.about);
const inputs = (row) => [...row.querySelectorAll("input")];
const edges = (row) => inputs(row).map((one) => (one.value === "" ? NaN : Number(one.value)));
const isEmpty = (row) => inputs(row).every((one) => one.value === "");

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

// A box by the pointer; a click on a box takes it away.
let row = null;
stage.addEventListener("box", (event) => {
  const { from, to, ends } = event.detail;
  row ??= rows.find(isEmpty) ?? null;
  const [left, right] = [from.x, to.x].map((x) => Math.min(Math.max(x, 0), columns)).sort((a, b) => a - b);
  const [top, bottom] = [from.y, to.y].map((y) => Math.min(Math.max(y, 0), height)).sort((a, b) => a - b);
  const isClick = !(right - left > 2 && bottom - top > 2);
  if (row) fill(row, isClick ? ["", "", "", ""] : [left, top, right, bottom].map((edge, place) => (place < 2 ? Math.floor(edge) : Math.ceil(edge))));
  if (!ends) return;
  row = null;
  const hit = (one) => {
    const [l, t, r, b] = edges(one);
    return l <= to.x && to.x <= r && t <= to.y && to.y <= b;
  };
  const under = isClick && rows.findLast(hit);
  if (under) fill(under, ["", "", "", ""]);
});

for (const one of rows) {
  one.addEventListener("input", show);
  const clear = one.querySelector(".clear");
  clear.hidden = false;
  clear.addEventListener("click", () => fill(one, ["", "", "", ""]));
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`)?.click();
});
document.querySelectorAll(".scripted").forEach((one) => (one.hidden = false));
show();
