// Pictures that are fetched when they come into view, a few at a time.

import { fetchPicture } from "./api.js";
import { element, shown } from "./text.js";

const AT_ONCE = 8;
const waiting = [];
let running = 0;

function next() {
  while (running < AT_ONCE && waiting.length) {
    const job = waiting.shift();
    if (job.signal?.aborted) continue;
    running += 1;
    job.run().finally(() => {
      running -= 1;
      next();
    });
  }
}

// The picture's bytes, in turn. Rejects with a sentence, or with an AbortError.
export function pictureInTurn(row, signal) {
  return new Promise((resolve, reject) => {
    waiting.push({ signal, run: () => fetchPicture(row, signal).then(resolve, reject) });
    next();
  });
}

const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    target.load();
  }
}, { rootMargin: "300px" });

// Fill the frame with the picture of a row once it comes into view. A broken picture is its reason.
export function showPicture(frame, row, signal, { now = false } = {}) {
  frame.load = async () => {
    try {
      const address = URL.createObjectURL(await pictureInTurn(row, signal));
      const image = element("img", { alt: "", src: address, draggable: false });
      try {
        await image.decode();
      } finally {
        URL.revokeObjectURL(address);
      }
      frame.replaceChildren(image);
    } catch (error) {
      if (error.name === "AbortError" || signal?.aborted) return;
      const reason = error.name === "EncodingError" ? "it cannot be shown" : error.message;
      frame.replaceChildren(element("span", { class: "missing", textContent: `no picture: ${shown(reason)}` }));
    }
  };
  if (now) frame.load();
  else observer.observe(frame);
}
