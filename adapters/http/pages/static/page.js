// On every page: times that stay true, questions before what cannot be undone, arrow keys for previous and next.

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const units = [["day", 86400], ["hour", 3600], ["minute", 60]];

function ago(since) {
  const seconds = since < -60 ? since - 30 : since; // what ends in a day less a moment ends in a day
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
