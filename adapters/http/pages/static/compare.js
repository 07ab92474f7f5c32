// Two versions: a slider over both images, their difference, or two players in sync.

const modes = document.querySelector("[data-modes]");
if (modes) {
  modes.hidden = false;
  const buttons = [...modes.querySelectorAll("button")];
  const choose = (mode) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    for (const pane of document.querySelectorAll("[data-pane]")) pane.hidden = pane.dataset.pane !== mode;
  };
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.mode));
  choose("slider");
  // If one image cannot be shown, only the side-by-side view is left.
  for (const picture of document.querySelectorAll(".slider img")) {
    const alone = () => { choose("sides"); modes.hidden = true; };
    if (picture.complete && !picture.naturalWidth) alone(); else picture.addEventListener("error", alone);
  }
}

for (const slider of document.querySelectorAll("[data-slider]")) {
  const range = slider.querySelector("input");
  const cut = () => slider.style.setProperty("--cut", range.value);
  range.addEventListener("input", cut);
  slider.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || event.buttons !== 1) return;
    const room = slider.getBoundingClientRect();
    range.value = String(100 * (event.clientX - room.left) / room.width);
    cut();
  });
  cut();
}

const players = [...document.querySelectorAll("[data-players] :is(video, audio)")];
const button = document.querySelector("[data-play]");
if (players.length === 2 && button) {
  button.hidden = false;
  let led = false; // one player follows the other
  const inStep = (from, to) => {
    if (Math.abs(from.currentTime - to.currentTime) > 0.15) to.currentTime = from.currentTime;
  };
  for (const [from, to] of [players, [...players].reverse()]) {
    from.addEventListener("seeked", () => { if (!led) { led = true; inStep(from, to); setTimeout(() => { led = false; }, 100); } });
    from.addEventListener("play", () => { if (to.paused) { inStep(from, to); to.play().catch(() => {}); } button.textContent = "Pause both"; });
    from.addEventListener("pause", () => { if (!from.ended && !to.paused) to.pause(); button.textContent = "Play both"; });
  }
  button.addEventListener("click", () => { if (players[0].paused) players[0].play().catch(() => {}); else players[0].pause(); });
}
