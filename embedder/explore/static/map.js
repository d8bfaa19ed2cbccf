// The map: points on a canvas, pictures where there is room, and a picture beside the pointer.

import { ask } from "./api.js";
import { Grid } from "./grid.js";
import { pictureInTurn, showPicture } from "./pictures.js";
import { Plane } from "./plane.js";
import { count, shown } from "./text.js";

const MOST_THUMBNAILS = 60; // points in view up to which pictures are drawn instead
const THUMBNAIL_PIXELS = 58;
const KEPT_THUMBNAILS = 600;
const STRIP_PICTURES = 12;
const REACH_PIXELS = 9;
const ASK_MILLISECONDS = 600;
const part = (id) => document.getElementById(id);

export class EmbeddingMap {
  constructor({ say, fail }) {
    this.say = say;
    this.fail = fail;
    this.plane = new Plane();
    this.version = 0;
    this.found = new Set();
    this.thumbnails = new Map(); // row to an ImageBitmap, or to null while it comes and where there is none
    this.strip = new Grid(part("strip"));
    this.canvas = part("canvas");
    this.drawing = this.canvas.getContext("2d");
    this.pointers = new Map();
    this.isOpen = false;
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  open() {
    this.isOpen = true;
    this.resize();
    if (!this.isDone) {
      this.follow();
      return;
    }
    this.tell(this.last);
    this.moved();
  }

  close() {
    this.isOpen = false;
    this.hover(-1);
    this.strip.clear();
    clearTimeout(this.moving);
  }

  // The rows of the last search, which the map marks.
  mark(rows) {
    this.found = new Set(rows);
  }

  async follow() {
    if (this.isFollowing) return;
    this.isFollowing = true;
    try {
      while (this.isOpen && !this.isDone) {
        const answer = await ask("api/map", { version: this.version });
        if (answer.rows) {
          this.plane.place(answer.rows, answer.x, answer.y);
          this.version = answer.version;
          this.draw();
        }
        this.last = answer;
        this.tell(answer);
        this.isDone = answer.state === "done" || answer.state === "failed";
        if (answer.state === "failed") throw new Error(answer.message);
        if (!this.isDone) await new Promise((resolve) => setTimeout(resolve, ASK_MILLISECONDS));
      }
      if (this.isDone) this.moved();
    } catch (error) {
      this.fail(error);
    } finally {
      this.isFollowing = false;
    }
  }

  tell({ state, step, steps, of }) {
    const progress = part("map-progress");
    const points = this.plane.rows.length;
    const what = points < of ? `A sample of ${count(points)} of ${count(of)} pictures` : `All ${count(points)} pictures`;
    progress.hidden = state === "done" || state === "failed";
    if (state === "laying_out") progress.value = step / steps;
    else progress.removeAttribute("value");
    part("map-about").textContent = {
      reading: "Reading vectors…",
      laying_out: `${what}. Finding places: ${Math.floor((100 * step) / steps)} %`,
      done: `${what}. Similar ones lie near each other; distances between groups mean little.`
        + (this.found.size ? " Rings mark the best of your last search." : ""),
    }[state] ?? "";
    if (state === "done") this.say("The map is ready");
    this.canvas.dataset.state = state;
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    const ratio = devicePixelRatio || 1;
    this.canvas.width = clientWidth * ratio;
    this.canvas.height = clientHeight * ratio;
    this.drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.plane.size(clientWidth, clientHeight);
    this.draw();
  }

  draw() {
    if (!this.isOpen || this.isDrawing) return;
    this.isDrawing = true;
    requestAnimationFrame(() => {
      this.isDrawing = false;
      this.paint();
    });
  }

  paint() {
    const { drawing, plane } = this;
    const style = getComputedStyle(document.documentElement);
    const mark = style.getPropertyValue("--mark");
    drawing.clearRect(0, 0, plane.width, plane.height);
    const inView = plane.inView(THUMBNAIL_PIXELS);
    const withPictures = inView.length <= MOST_THUMBNAILS && this.isDone;
    const radius = Math.min(6, (plane.rows.length > 1000 ? 2.2 : 3.5) * Math.sqrt(plane.zoom) ** 0.6);
    drawing.fillStyle = style.getPropertyValue("--point");
    const marked = [];
    for (const point of inView) {
      const row = plane.rows[point];
      if (this.found.has(row)) marked.push(point);
      const [left, top] = plane.toScreen(point);
      if (withPictures && this.thumbnail(row, left, top)) continue;
      drawing.beginPath();
      drawing.arc(left, top, radius, 0, 7);
      drawing.fill();
    }
    drawing.strokeStyle = mark;
    drawing.lineWidth = 2.5;
    for (const point of marked) {
      const [left, top] = plane.toScreen(point);
      drawing.beginPath();
      if (withPictures && this.thumbnails.get(plane.rows[point])) {
        const half = THUMBNAIL_PIXELS / 2;
        drawing.rect(left - half, top - half, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS);
      } else drawing.arc(left, top, radius + 2, 0, 7);
      drawing.stroke();
    }
  }

  // Draw a picture at its point, and return whether there is one.
  thumbnail(row, left, top) {
    const picture = this.thumbnails.get(row);
    if (picture === undefined) {
      this.thumbnails.set(row, null);
      pictureInTurn(row).then(createImageBitmap).then((bitmap) => {
        this.thumbnails.set(row, bitmap);
        this.draw();
      }).catch(() => {}); // its point stays a dot; hover and the pictures below the map give the reason
      if (this.thumbnails.size > KEPT_THUMBNAILS) this.thumbnails.delete(this.thumbnails.keys().next().value);
    }
    if (!picture) return false;
    const side = Math.min(picture.width, picture.height);
    const half = THUMBNAIL_PIXELS / 2;
    this.drawing.drawImage(
      picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side,
      left - half, top - half, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS,
    );
    return true;
  }

  // The view has changed: draw it, and soon show the pictures in its middle below.
  moved() {
    this.draw();
    clearTimeout(this.moving);
    if (!this.isDone) return; // the points still move
    this.moving = setTimeout(async () => {
      const rows = this.plane.nearestToMiddle(STRIP_PICTURES).map((point) => this.plane.rows[point]);
      try {
        const described = await Promise.all(rows.map((row) => ask("api/row", { row })));
        if (this.isOpen) this.strip.show(described);
      } catch (error) {
        this.fail(error);
      }
    }, 300);
  }

  hover(point, left = 0, top = 0) {
    this.canvas.classList.toggle("over", point >= 0);
    if (point === this.hovered) return;
    this.hovered = point;
    this.leavingHover?.abort();
    const box = part("hover");
    box.hidden = point < 0;
    if (point < 0) return;
    const row = this.plane.rows[point];
    const leaving = this.leavingHover = new AbortController();
    box.style.left = `${Math.max(4, Math.min(left + 14, this.plane.width - 190))}px`;
    box.style.top = `${Math.max(4, Math.min(top + 14, this.plane.height - 220))}px`;
    part("hover-picture").replaceChildren();
    part("hover-text").textContent = `row ${row}`;
    setTimeout(() => {
      if (leaving.signal.aborted) return;
      showPicture(part("hover-picture"), row, leaving.signal, { now: true });
      ask("api/row", { row }, { signal: leaving.signal }).then(({ url, id }) => {
        part("hover-text").textContent = shown(id ?? url);
      }).catch(() => {}); // the number of the row stays
    }, 90);
  }

  listen() {
    const { canvas, plane } = this;
    const spot = (event) => [event.offsetX, event.offsetY];
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, spot(event));
      this.isDrag = false;
    });
    canvas.addEventListener("pointermove", (event) => {
      const [left, top] = spot(event);
      const before = this.pointers.get(event.pointerId);
      if (!before) {
        this.hover(plane.pointAt(left, top, this.reach()), left, top);
        return;
      }
      if (!this.isDrag && Math.hypot(left - before[0], top - before[1]) < 4) return;
      this.isDrag = true;
      this.hover(-1);
      canvas.classList.add("dragging");
      const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
      if (others.length) {
        const [, still] = others[0];
        const apart = (one) => Math.hypot(one[0] - still[0], one[1] - still[1]) || 1;
        plane.zoomAt(apart([left, top]) / apart(before), ...still);
      } else plane.pan(left - before[0], top - before[1]);
      this.pointers.set(event.pointerId, [left, top]);
      this.moved();
    });
    const end = (event) => {
      const wasDown = this.pointers.delete(event.pointerId);
      if (!this.pointers.size) canvas.classList.remove("dragging");
      if (!wasDown || this.isDrag || event.type !== "pointerup") return;
      const point = plane.pointAt(...spot(event), this.reach());
      if (point >= 0) location.hash = `#/near/${plane.rows[point]}`;
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 300), ...spot(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const step = 60;
      const pans = {
        ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step],
      };
      if (event.key in pans) plane.pan(...pans[event.key]);
      else if (event.key === "+" || event.key === "=") plane.zoomAt(1.4, plane.width / 2, plane.height / 2);
      else if (event.key === "-") plane.zoomAt(1 / 1.4, plane.width / 2, plane.height / 2);
      else if (event.key === "0") plane.reset();
      else return;
      event.preventDefault();
      this.moved();
    });
    part("zoom-in").addEventListener("click", () => this.zoom(1.6));
    part("zoom-out").addEventListener("click", () => this.zoom(1 / 1.6));
    part("zoom-reset").addEventListener("click", () => {
      plane.reset();
      this.moved();
    });
  }

  reach() {
    const hasPictures = this.isDone && this.plane.inView(THUMBNAIL_PIXELS).length <= MOST_THUMBNAILS;
    return hasPictures ? THUMBNAIL_PIXELS / 2 : REACH_PIXELS;
  }

  zoom(factor, left = this.plane.width / 2, top = this.plane.height / 2) {
    this.hover(-1);
    this.plane.zoomAt(factor, left, top);
    this.moved();
  }
}
