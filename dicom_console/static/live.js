// Pages that update by themselves: after each change the page is asked for again, and its live parts are replaced.
// Without it, or when too many pages are open, the page stands still.
const note = document.getElementById("live");
// The answer to a form cannot be asked for again: it says which page has its live parts.
const address = document.querySelector("[data-from]")?.dataset.from ?? location.href;
let source = null;
let waiting = false;
let missed = false; // a change of which the answer that is awaited may know nothing

// What is not up to date says so in red, in sight wherever one has scrolled to.
const say = (text, isOld = false) => {
  note.textContent = text;
  note.className = isOld ? "problem old" : "note";
  note.hidden = false;
};

const busy = (part) =>
  part.querySelector("details[open]") || part.querySelector("input:focus, select:focus, textarea:focus, input[name=study]:checked");

const place = (element) => element.getAttribute("href") || element.closest("form")?.getAttribute("action");

const swap = (old, part) => {
  const focused = old.contains(document.activeElement) ? place(document.activeElement) : null;
  const scrolled = old.querySelector(".scroll")?.scrollLeft;
  old.replaceWith(part);
  if (scrolled) part.querySelector(".scroll").scrollLeft = scrolled;
  if (focused) [...part.querySelectorAll("a, button")].find((one) => place(one) === focused)?.focus();
};

// No further change may come for long: what was not answered is asked again.
const again = () => {
  say(note.dataset.silent, true);
  setTimeout(refresh, 5000);
};

const refresh = async () => {
  missed = waiting;
  if (waiting) return;
  waiting = true;
  try {
    const answer = await fetch(address, { headers: { "X-By-Itself": "1" } });
    if (answer.redirected) return location.assign("/sign-in");
    if (!answer.ok) return again();
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    // What was waited for is a page of its own, with scripts that a part of a page would lack.
    const then = page.querySelector("[data-then]");
    if (then) return location.replace(then.dataset.then);
    for (const old of document.querySelectorAll("[data-live]")) {
      const part = page.getElementById(old.id);
      if (part && !busy(old) && part.innerHTML !== old.innerHTML) swap(old, document.adoptNode(part));
    }
    say(note.dataset.last.replace("{time}", new Date().toLocaleTimeString([], { hour12: false })));
  } catch {
    again();
  } finally {
    waiting = false;
    if (missed) refresh();
  }
};

const listen = () => {
  source = new EventSource("/live");
  source.onmessage = refresh;
  source.addEventListener("away", () => say(note.dataset.away, true));
  source.addEventListener("ended", () => location.assign("/sign-in"));
  source.onerror = () => {
    say(note.dataset.waits, true);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => document.hidden || listen(), 30000);
  };
};

// A browser has few connections to one node: only the page that is looked at holds one.
document.addEventListener("visibilitychange", () => {
  source?.close();
  if (!document.hidden) listen();
});
// Who signs out goes where the answer says, and not where the end of the session leads to.
document.addEventListener("submit", () => source?.close());
if (!document.hidden) listen();
