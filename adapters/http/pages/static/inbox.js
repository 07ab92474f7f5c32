// An inbox that stays true: what comes and what others decided shows up, unless somebody is writing here.

import { announce, refreshTimes } from "./page.js";

const list = document.querySelector("[data-inbox]");
const kinds = new Set(["ApprovalRequested", "ApprovalTimedOut", "DecisionRecorded", "ArtifactEdited", "ChainEnded"]);
let seen = list?.dataset.seq;
let source;
let timer = 0;

function busy() {
  const active = document.activeElement;
  return list.querySelector("details[open]") || (list.contains(active) && active.matches("input, textarea"));
}

async function look() {
  timer = 0;
  const answer = await fetch("/", { headers: { Accept: "text/html" }, credentials: "same-origin" }).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const now = fresh.querySelector("[data-inbox]");
  const nav = document.querySelector(".nav");
  const freshNav = fresh.querySelector(".nav");
  if (nav && freshNav && !nav.contains(document.activeElement)) nav.replaceWith(document.importNode(freshNav, true));
  if (!now || now.dataset.ids === list.dataset.ids) return;
  if (busy()) { announce("The inbox changed; load the page anew to see it"); return; }
  const href = document.activeElement?.getAttribute("href");
  list.dataset.ids = now.dataset.ids;
  list.replaceChildren(...[...now.childNodes].map((node) => document.importNode(node, true)));
  if (href) list.querySelector(`[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
  refreshTimes(list);
  announce(list.querySelector(".facts")?.textContent.trim() ?? "");
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
