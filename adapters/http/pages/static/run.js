// A run in progress: when the server reports an event, or steps report progress or log a line, the page is fetched again,
// and the changed parts are replaced.

import { announce, refreshTimes } from "./page.js";

const head = document.querySelector("[data-live]");
const parts = ["run-status", "run-facts", "run-actions", "run-notices", "run-counts", "run-graph", "run-steps", "step-status", "step-facts", "step-progress", "step-body"];
const shortest = 400; // milliseconds between two fetches
const between = 1000; // milliseconds between two questions about progress and logs
let timer = 0;
let looking = false;
let again = false;
let last = 0;
let source;

function later() {
  if (looking) { again = true; return; }
  if (!timer) timer = setTimeout(look, Math.max(0, last + shortest - Date.now()));
}

async function look() {
  timer = 0;
  looking = true;
  const started = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (answer.ok) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch { /* the next event, or the connection that comes back, brings another look */ }
  last = Date.now() + Math.min(5000, 4 * (Date.now() - started)); // a slow page is fetched less often
  looking = false;
  if (again) { again = false; later(); }
}

// Each fetched page has new tokens in its forms. The old ones are valid for a day, so the forms are kept: no button is
// replaced between press and release.
function keepTokens(fresh) {
  const token = document.querySelector("input[name=csrf]")?.value;
  if (token) for (const field of fresh.querySelectorAll("input[name=csrf]")) field.setAttribute("value", token);
}

function exchange(fresh) {
  keepTokens(fresh);
  const before = document.getElementById("run-status")?.textContent;
  for (const id of parts) {
    const old = document.getElementById(id);
    const now = fresh.getElementById(id);
    if (old && now) patch(old, now);
  }
  refreshTimes();
  const after = document.getElementById("run-status")?.textContent;
  if (after && before !== after) announce(`The run is ${after.trim()}`);
}

// Replace as little as possible, to keep the focus and open details.
function patch(old, now) {
  if (old.isEqualNode(now) || old.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) return;
  const keyed = [...old.children].every((child) => child.id) && [...now.children].every((child) => child.id);
  if (keyed && old.children.length && old.localName !== "svg") { match(old, now); return; }
  if (old.localName === "svg") { swap(old, now); return; }
  const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  old.replaceChildren(...[...now.childNodes].map((node) => document.importNode(node, true)));
  if (focused) old.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

// Children with the same id are the same part of the page.
function match(old, now) {
  const there = new Map([...old.children].map((child) => [child.id, child]));
  let before = null;
  for (const fresh of [...now.children].reverse()) {
    const child = there.get(fresh.id);
    const made = child ? swap(child, fresh) : document.importNode(fresh, true);
    there.delete(fresh.id);
    if (!child || made.nextElementSibling !== before) old.insertBefore(made, before);
    before = made;
  }
  for (const child of there.values()) child.remove();
}

// A log that grows: what the reader looks at stays where it is, and who reads the end goes on with it.
function grow(pre, text) {
  const follows = atEnd(pre);
  const before = pre.textContent;
  const cut = text.startsWith(before) ? 0 : before.indexOf(text.slice(0, 500)); // the oldest lines go first
  if (cut > 0) {
    const height = pre.scrollHeight;
    pre.textContent = before.slice(cut);
    pre.scrollTop -= height - pre.scrollHeight;
  }
  if (text.startsWith(pre.textContent) && pre.firstChild) pre.firstChild.appendData(text.slice(pre.textContent.length));
  else pre.textContent = text;
  if (follows) pre.scrollTop = pre.scrollHeight;
}

function atEnd(pre) {
  return pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
}

// Returns the child that is on the page now.
function swap(child, fresh) {
  if (child.isEqualNode(fresh)) return child;
  if (child.dataset.log && child.dataset.log === fresh.dataset.log) {
    grow(child.querySelector("pre"), fresh.querySelector("pre").textContent);
    return child;
  }
  const active = document.activeElement;
  const inside = child === active || child.contains(active);
  const made = document.importNode(fresh, true);
  child.replaceWith(made);
  if (!inside) return made;
  const href = active.getAttribute("href");
  const target = active.id ? document.getElementById(active.id) : href && made.querySelector(`[href="${CSS.escape(href)}"]`);
  target?.focus({ preventScroll: true });
  return made;
}

let seen = head?.dataset.seq; // number of the last event on this page
let over = false;

// A hidden page closes its connection: browsers allow six connections to a server, and people open many tabs.
function follow() {
  source?.close();
  if (over || document.hidden) return;
  source = new EventSource(`${head.dataset.live}?after=${seen}`);
  source.onmessage = (event) => { seen = event.lastEventId || seen; later(); };
  source.addEventListener("end", () => { over = true; source.close(); later(); });
}

// Progress and logs are no events. The answer is small, and the page is fetched only if it is another one than before.
let told = "";
let asking = 0;

async function ask() {
  clearTimeout(asking);
  if (over || document.hidden) return;
  const answer = await fetch(head.dataset.news, { headers: { Accept: "application/json" }, credentials: "same-origin" }).catch(() => null);
  const text = answer?.ok ? await answer.text() : told;
  if (text !== told) { told = text; later(); }
  if (!answer || answer.ok || answer.status >= 500) asking = setTimeout(ask, between); // otherwise the run is gone, or the key
  else over = true;
}

if (head) {
  follow();
  asking = setTimeout(ask, between);
  document.addEventListener("visibilitychange", () => { follow(); ask(); });
  window.addEventListener("pagehide", () => source?.close());
}

// Scroll a wide picture to the first step in progress.
const graph = document.querySelector(".graph");
const busy = graph?.querySelector(".node.wait, .node.bad, .node.run");
if (graph && busy) {
  const box = busy.getBoundingClientRect();
  const room = graph.getBoundingClientRect();
  if (box.right > room.right) graph.scrollLeft = box.left - room.left - room.width / 2;
  if (box.bottom > room.bottom) graph.scrollTop = box.top - room.top - room.height / 2;
}

// The log of a step in progress is read from its end.
if (head) for (const pre of document.querySelectorAll("#log pre")) pre.scrollTop = pre.scrollHeight;
