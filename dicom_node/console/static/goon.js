// The console starts anew with the node's new configuration: wait until it answers again.
const told = document.getElementById("goon");
let left = 60;

async function look() {
  try {
    const answer = await fetch("/healthz", { cache: "no-store" });
    if (answer.ok) return location.replace(told.dataset.address);
  } catch { /* not yet */ }
  left -= 1;
  if (left > 0) setTimeout(look, 500);
  else told.textContent = "The console does not answer yet: see the log of the node.";
}

setTimeout(look, 2500);
