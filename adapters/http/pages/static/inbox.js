// Keeps the inbox up to date. New gates are added below; gates that others decided are marked in place. Nothing moves
// under the pointer of a person who is about to press Approve, and no text that is being written is lost.

import { announce, refreshTimes } from "./page.js";

const list = document.querySelector("[data-inbox]");
const kinds = new Set(["ApprovalRequested", "ApprovalTimedOut", "DecisionRecorded", "ArtifactEdited", "ChainEnded"]);
let seen = list?.dataset.seq;
let source;
let timer = 0;

async function look() {
  timer = 0;
  const answer = await fetch("/", { headers: { Accept: "text/html" }, credentials: "same-origin" }).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const now = fresh.querySelector("[data-inbox]");
  if (!now) return;
  const nav = document.querySelector(".nav");
  const freshNav = fresh.querySelector(".nav");
  if (nav && freshNav && !nav.contains(document.activeElement)) nav.replaceWith(document.importNode(freshNav, true));
  if (document.getElementById("waiting") && now.querySelector("#waiting")) merge(now);
  else if (document.getElementById("waiting")) gates(list).forEach(close);
  else list.replaceChildren(...[...now.childNodes].map((node) => document.importNode(node, true)));
  refreshTimes(list);
}

function gates(root) { return [...root.querySelectorAll("[data-gate]:not(.over)")]; }

function merge(now) {
  const fresh = new Map(gates(now).map((gate) => [gate.dataset.gate, gate]));
  for (const gate of gates(list)) {
    const other = fresh.get(gate.dataset.gate);
    fresh.delete(gate.dataset.gate);
    if (!other) close(gate);
    else if (other.dataset.ids !== gate.dataset.ids) renew(gate, other);
  }
  document.getElementById("waiting").append(...[...fresh.values()].map((gate) => document.importNode(gate, true)));
  const facts = list.querySelector(".facts");
  const counted = now.querySelector(".facts")?.textContent;
  if (facts && counted && facts.textContent !== counted) { facts.textContent = counted; announce(counted.trim()); }
}

function renew(gate, other) {
  if (gate.querySelector("details[open]")) { announce("A file on this page was replaced"); return; }
  const inside = gate.contains(document.activeElement);
  const made = document.importNode(other, true);
  gate.replaceWith(made);
  if (inside) made.querySelector("h2 a").focus({ preventScroll: true });
}

// While a person writes a reason, the change is shown when the form is sent; otherwise at once.
function close(gate) {
  if (gate.querySelector("details[open]")) return;
  const inside = gate.contains(document.activeElement);
  gate.style.minBlockSize = `${gate.getBoundingClientRect().height}px`;
  gate.classList.add("over");
  gate.querySelector(".reject-here")?.remove();
  const decided = document.createElement("p");
  decided.className = "muted small";
  decided.textContent = "No decision is needed any more.";
  gate.querySelector(".decide form")?.replaceWith(decided);
  if (inside) gate.querySelector("h2 a").focus({ preventScroll: true });
}

function follow() {
  source?.close();
  if (document.hidden) return;
  source = new EventSource(`${list.dataset.live}?after=${seen}`);
  source.onmessage = (event) => {
    seen = event.lastEventId || seen;
    if (kinds.has(JSON.parse(event.data).type) && !timer) timer = setTimeout(look, 300);
  };
}

if (list) {
  follow();
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", () => source?.close());
}
