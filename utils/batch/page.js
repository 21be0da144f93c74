"use strict";
for (const entry of document.querySelectorAll(".entry")) {
  const compare = entry.querySelector(".compare");
  const handle = entry.querySelector(".handle");
  const pictures = entry.querySelectorAll("img");
  let at = 50;    // percent of the width that shows the left version

  const moveTo = (percent) => {
    at = Math.min(100, Math.max(0, percent));
    compare.style.setProperty("--at", at + "%");
    handle.setAttribute("aria-valuenow", Math.round(at));
  };
  const follow = (event) => {
    const box = compare.getBoundingClientRect();
    moveTo(100 * (event.clientX - box.left) / box.width);
  };
  compare.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    compare.setPointerCapture(event.pointerId);
    handle.focus({preventScroll: true});
    follow(event);
    event.preventDefault();
  });
  compare.addEventListener("pointermove", (event) => {
    if (compare.hasPointerCapture(event.pointerId)) follow(event);
  });

  const steps = {ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10,
                 Home: -100, End: 100};
  handle.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    moveTo(at + steps[event.key]);
    event.preventDefault();
  });

  entry.addEventListener("timeupdate", ({target}) => {     // of the players, which do not let it bubble
    compare.style.setProperty("--time", 100 * target.currentTime / target.duration + "%");
  }, true);

  entry.addEventListener("change", (event) => {
    const {side} = event.target.dataset;
    if (!side) return;
    pictures.forEach((picture, i) => picture.classList.toggle(side, i === Number(event.target.value)));
    entry.querySelector(".tag." + side).textContent = pictures[event.target.value].alt;
  });
}

// One sound at a time.
document.addEventListener("play", (event) => {
  for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
}, true);
