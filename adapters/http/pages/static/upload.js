// Uploads: drop a file, see the progress. Without this script, it is a plain form.

import { announce } from "./page.js";

for (const drop of document.querySelectorAll("[data-drop]")) {
  const input = drop.querySelector("input[type=file]");
  drop.querySelector("[data-drop-hint]").hidden = false;
  const over = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.addEventListener("dragenter", over);
  drop.addEventListener("dragover", over);
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    announce(`${event.dataTransfer.files[0].name} chosen`);
  });
}

for (const form of document.querySelectorAll("form[data-upload]")) {
  form.addEventListener("submit", (event) => {
    const file = form.querySelector("input[type=file]")?.files[0];
    if (!file) return;
    event.preventDefault();
    send(form, new FormData(form, event.submitter), file);
  });
}

function send(form, data, file) {
  const place = form.querySelector("[data-progress]");
  const bar = place.querySelector("progress");
  const text = place.querySelector("[data-progress-text]");
  const buttons = [...form.querySelectorAll("button")];
  const request = new XMLHttpRequest();
  place.hidden = false;
  for (const button of buttons) button.disabled = true;
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "text/html");
  request.upload.onprogress = (event) => {
    if (!event.lengthComputable) return;
    bar.value = 100 * event.loaded / event.total;
    text.textContent = event.loaded < event.total ? `${Math.round(bar.value)} % of ${file.name}` : "keeping it safe…";
  };
  const failed = (why) => {
    for (const button of buttons) button.disabled = false;
    text.textContent = why;
    announce(why);
  };
  request.onerror = () => failed("The connection was lost; nothing was changed. Try again.");
  request.onload = () => {
    if (request.status < 400) { location.href = request.responseURL; return; }
    const answer = new DOMParser().parseFromString(request.responseText, "text/html");
    const notice = answer.querySelector(".notice:not(.ok)") ?? answer.querySelector("main p");
    failed(notice?.textContent.trim() || "The server refused the file.");
    if (request.status === 409) offerLatest(text);
  };
  request.send(data);
}

// The gate has changed: the same form would be refused again.
function offerLatest(text) {
  const link = document.createElement("a");
  link.href = location.pathname;
  link.textContent = "Look at the latest versions";
  text.append(" ", link);
}
