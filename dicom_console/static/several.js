// Ticks in a list: all rows at once, and from the last ticked row to this one with Shift.
const boxes = () => [...document.querySelectorAll('input[name="study"]')];
let last = null;

document.addEventListener("click", (event) => {
  const box = event.target;
  if (box.id === "all") boxes().forEach((one) => (one.checked = box.checked));
  if (box.name !== "study") return;
  const rows = boxes();
  if (event.shiftKey && rows.includes(last)) {
    const [from, to] = [rows.indexOf(last), rows.indexOf(box)].sort((a, b) => a - b);
    rows.slice(from, to + 1).forEach((one) => (one.checked = box.checked));
  }
  last = box;
});

document.addEventListener("change", () => {
  const number = document.getElementById("number");
  if (number) number.textContent = boxes().filter((one) => one.checked).length;
});
