// The gallery by keyboard: arrows move between tiles, Enter enlarges, j and k (or arrows) show the next file.

import { announce } from "./page.js";

const tiles = document.getElementById("tiles");
const box = document.getElementById("lightbox");

function all() { return [...tiles.querySelectorAll(".tile")]; }

function columns(list) {
  const top = list[0].offsetTop;
  const first = list.findIndex((tile) => tile.offsetTop !== top);
  return first === -1 ? list.length : first;
}

async function more() {
  const link = document.getElementById("more");
  if (!link || link.dataset.busy) return false;
  link.dataset.busy = "yes";
  try {
    const answer = await fetch(link.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = [...fresh.querySelectorAll("#tiles .tile")].map((tile) => document.importNode(tile, true));
    tiles.append(...found);
    const next = fresh.getElementById("more");
    if (next) { link.href = next.getAttribute("href"); delete link.dataset.busy; } else link.remove();
    announce(`${found.length} more files`);
    return found.length > 0;
  } catch {
    delete link.dataset.busy;
    location.href = link.href;
    return false;
  }
}

async function at(index) {
  if (index >= all().length) await more();
  return all()[Math.max(0, Math.min(index, all().length - 1))];
}

let shown = 0;

async function enlarge(index) {
  const tile = await at(index);
  shown = all().indexOf(tile);
  const { show, url, name, about } = tile.dataset;
  const stage = document.getElementById("lightbox-stage");
  document.getElementById("lightbox-name").textContent = name;
  document.getElementById("lightbox-about").textContent = about;
  document.getElementById("lightbox-page").href = tile.href;
  document.getElementById("lightbox-previous").disabled = shown === 0;
  document.getElementById("lightbox-next").disabled = shown === all().length - 1 && !document.getElementById("more");
  stage.replaceChildren();
  if (!box.open) box.showModal();
  const made = await content(show, url, name, tile);
  if (!box.open || shown !== all().indexOf(tile)) return; // another file was opened meanwhile
  stage.replaceChildren(made);
  announce(`${name}, ${shown + 1} of ${all().length}`);
}

async function content(show, url, name, tile) {
  if (show === "image" || show === "video" || show === "audio") {
    const made = document.createElement(show === "image" ? "img" : show);
    made.src = url;
    if (show === "image") made.alt = name; else { made.controls = true; made.preload = "metadata"; made.setAttribute("aria-label", name); }
    return made;
  }
  const answer = await fetch(tile.href, { headers: { Accept: "text/html" }, credentials: "same-origin" }).catch(() => null);
  const frame = answer?.ok ? new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".frame") : null;
  return frame ? document.importNode(frame, true) : document.createTextNode(name);
}

if (tiles) {
  document.querySelector("[data-keys]")?.removeAttribute("hidden");

  tiles.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    enlarge(all().indexOf(tile));
  });

  document.addEventListener("keydown", async (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (box.open) {
      if (event.target.closest?.("video, audio, [role=region]") && event.key.startsWith("Arrow")) return;
      const step = { ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1 }[event.key];
      if (step) { event.preventDefault(); await enlarge(shown + step); }
      return;
    }
    if (event.target.closest?.("input, select, textarea")) return;
    const list = all();
    const here = list.indexOf(document.activeElement);
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ArrowDown: columns(list), ArrowUp: -columns(list) }[event.key];
    if (by === undefined || (here === -1 && event.key !== "j" && event.key !== "ArrowRight")) return;
    event.preventDefault();
    if (here + by < 0) return;
    (await at(here + by)).focus();
  });

  document.getElementById("more")?.addEventListener("click", async (event) => {
    event.preventDefault();
    const first = all().length;
    if (await more()) all()[first]?.focus();
  });

  document.getElementById("lightbox-previous").addEventListener("click", () => enlarge(shown - 1));
  document.getElementById("lightbox-next").addEventListener("click", () => enlarge(shown + 1));
  document.getElementById("lightbox-close").addEventListener("click", () => box.close());
  box.addEventListener("close", () => {
    document.getElementById("lightbox-stage").replaceChildren();
    all()[shown]?.focus();
  });
}
