// On every page: relative times are updated, irreversible buttons ask first, arrow keys open the previous and next page,
// and files that cannot be shown are replaced by a text.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

function ago(since) {
  const seconds = since < -60 ? since - 30 : since; // 23 hours, 59 minutes and 40 seconds are shown as one day
  for (const [unit, length] of units) {
    if (Math.abs(seconds) >= length) return relative.format(-Math.trunc(seconds / length), unit);
  }
  return seconds >= 0 ? "just now" : "in less than a minute";
}

function lasted(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function refreshTimes(root = document) {
  const now = Date.now();
  for (const time of root.querySelectorAll("time[data-relative]")) {
    const at = new Date(time.dateTime);
    const text = ago((now - at) / 1000);
    if (time.textContent !== text) time.textContent = text;
    time.title = at.toLocaleString();
  }
  for (const span of root.querySelectorAll("[data-since]")) span.textContent = lasted(now - Number(span.dataset.since));
}

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

function symbol(name) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  made.setAttribute("class", "icon");
  made.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  made.append(use);
  return made;
}

// Why a file cannot be shown: the error of the server, or the browser cannot read it.
async function reason(url) {
  const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin" }).catch(() => null);
  if (!answer) return "The server cannot be reached.";
  if (answer.ok) { answer.body?.cancel(); return "This browser cannot read it."; }
  const refusal = await answer.json().catch(() => null);
  return `${refusal?.error?.message ?? answer.statusText} (${refusal?.error?.code ?? answer.status})`;
}

async function unseen(media) {
  if (media.closest(".thumb")) { media.replaceWith(symbol(media.dataset.icon || "file")); return; }
  const frame = media.closest(".frame, .stage");
  if (!frame || frame.querySelector(".blank")) return;
  const url = media.currentSrc || media.src;
  const words = document.createElement("div");
  words.className = "blank";
  words.append(symbol(media.localName === "img" ? "image" : media.localName), "This file cannot be shown. ");
  const link = document.createElement("a");
  link.href = url;
  link.download = "";
  link.textContent = "Download";
  (media.closest("a") ?? media).replaceWith(words);
  const why = await reason(url);
  words.append(why, document.createElement("br"), link);
}

document.addEventListener("error", (event) => {
  if (event.target instanceof HTMLImageElement || event.target instanceof HTMLMediaElement) unseen(event.target);
}, true);
for (const media of document.querySelectorAll("main :is(img, video, audio)")) {
  if (media.error || (media.localName === "img" && media.complete && !media.naturalWidth)) unseen(media);
}

// Remove the notice from the address, so that a reload or a shared address does not show it again.
const here = new URL(location.href);
if (here.searchParams.has("done")) {
  here.searchParams.delete("done");
  history.replaceState(history.state, "", here);
}

refreshTimes();
setInterval(refreshTimes, 1000);

document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.ask;
  if (question && !window.confirm(question)) event.preventDefault();
});

function typing(target) {
  return target instanceof Element && target.closest("input, textarea, select, video, audio, dialog, [contenteditable], [role=region]");
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || typing(event.target)) return;
  const wanted = { ArrowLeft: "prev", k: "prev", ArrowRight: "next", j: "next" }[event.key];
  const link = wanted && document.querySelector(`.actions a[rel=${wanted}]`);
  if (link) { event.preventDefault(); link.click(); }
});
