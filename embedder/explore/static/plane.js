// Points in a plane, the part of it that is in view, and which points are where. Knows no page.

const CELLS = 64; // the plane from -1 to 1 is divided into 64 by 64 cells, so that few points are compared

export class Plane {
  constructor() {
    this.rows = [];
    this.size(1, 1);
    this.reset();
    this.place([], [], []);
  }

  place(rows, x, y) {
    this.rows = rows;
    this.x = x;
    this.y = y;
    this.cells = new Map();
    rows.forEach((_, point) => {
      const key = cellOf(y[point]) * CELLS + cellOf(x[point]);
      if (!this.cells.has(key)) this.cells.set(key, []);
      this.cells.get(key).push(point);
    });
  }

  size(width, height) {
    this.width = width;
    this.height = height;
    this.unit = Math.min(width, height) / 2.2; // pixels of one unit of the plane, before any zoom
  }

  reset() {
    this.zoom = 1;
    this.middleX = 0;
    this.middleY = 0;
  }

  toScreen(point) {
    const pixels = this.unit * this.zoom;
    return [
      this.width / 2 + (this.x[point] - this.middleX) * pixels,
      this.height / 2 + (this.y[point] - this.middleY) * pixels,
    ];
  }

  toPlane(left, top) {
    const pixels = this.unit * this.zoom;
    return [this.middleX + (left - this.width / 2) / pixels, this.middleY + (top - this.height / 2) / pixels];
  }

  pan(right, down) {
    this.middleX = clamp(this.middleX - right / (this.unit * this.zoom), -1.2, 1.2);
    this.middleY = clamp(this.middleY - down / (this.unit * this.zoom), -1.2, 1.2);
  }

  // Zoom so that what is at this place of the screen stays there.
  zoomAt(factor, left, top) {
    const [x, y] = this.toPlane(left, top);
    this.zoom = clamp(this.zoom * factor, 0.5, 400);
    const [movedX, movedY] = this.toPlane(left, top);
    this.middleX = clamp(this.middleX + x - movedX, -1.2, 1.2);
    this.middleY = clamp(this.middleY + y - movedY, -1.2, 1.2);
  }

  // The point nearest to a place on the screen within so many pixels, -1 if there is none.
  pointAt(left, top, pixels) {
    const [x, y] = this.toPlane(left, top);
    const reach = pixels / (this.unit * this.zoom);
    let best = -1;
    let nearest = reach * reach;
    for (let down = cellOf(y - reach); down <= cellOf(y + reach); down += 1) {
      for (let across = cellOf(x - reach); across <= cellOf(x + reach); across += 1) {
        for (const point of this.cells.get(down * CELLS + across) ?? []) {
          const distance = (this.x[point] - x) ** 2 + (this.y[point] - y) ** 2;
          if (distance <= nearest) [best, nearest] = [point, distance];
        }
      }
    }
    return best;
  }

  inView(margin = 0) {
    const found = [];
    for (let point = 0; point < this.rows.length; point += 1) {
      const [left, top] = this.toScreen(point);
      if (left >= -margin && left <= this.width + margin && top >= -margin && top <= this.height + margin) {
        found.push(point);
      }
    }
    return found;
  }

  nearestToMiddle(wanted) {
    const far = (point) => (this.x[point] - this.middleX) ** 2 + (this.y[point] - this.middleY) ** 2;
    return this.inView().map((point) => [far(point), point]).sort((one, other) => one[0] - other[0])
      .slice(0, wanted).map(([, point]) => point);
  }
}

const clamp = (value, least, most) => Math.max(least, Math.min(most, value));
const cellOf = (value) => clamp(Math.floor(((value + 1) / 2) * CELLS), 0, CELLS - 1);
