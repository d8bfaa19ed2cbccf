// A grid of pictures: a click or Enter asks for what is near one, arrow keys move between them.

import { showPicture } from "./pictures.js";
import { element, place, score, shown } from "./text.js";

export class Grid {
  constructor(list) {
    this.list = list;
    this.leaving = new AbortController();
    list.addEventListener("keydown", (event) => this.move(event));
    list.addEventListener("focusin", (event) => {
      const button = event.target.closest("button");
      if (button) this.only(button);
    });
  }

  show(rows) {
    this.leaving.abort(); // pictures of the page before are no longer waited for
    this.leaving = new AbortController();
    this.list.replaceChildren(...rows.map((row) => this.card(row)));
    const first = this.list.querySelector("button");
    if (first) this.only(first);
  }

  clear() {
    this.show([]);
  }

  card(row) {
    const frame = element("div", { class: "frame" });
    const caption = element("span", { class: "caption" });
    if (row.score !== null) caption.append(element("span", { class: "score", textContent: score(row.score) }));
    caption.append(element("span", { class: "number", textContent: `row ${row.row}` }));
    const name = shown(row.id === null ? row.url : `${row.id}, ${row.url}`);
    const button = element("button", { type: "button", title: name }, frame, caption);
    const about = row.score === null ? "" : `, score ${score(row.score)}`;
    button.setAttribute("aria-label", `Near row ${row.row}${about}: ${name}`);
    button.dataset.row = row.row;
    button.addEventListener("click", () => {
      location.hash = `#/near/${row.row}`;
    });
    showPicture(frame, row.row, this.leaving.signal);
    const link = place(row.url);
    link.tabIndex = -1;
    const card = element("li", { class: "card" }, button, link);
    if (row.id !== null) {
      card.append(element("span", { class: "place id", textContent: shown(row.id), title: shown(row.id), dir: "ltr" }));
    }
    return card;
  }

  // One card takes part in the order of Tab; arrows choose which. Its link follows it.
  only(button) {
    for (const each of this.list.querySelectorAll("button, a")) each.tabIndex = -1;
    button.tabIndex = 0;
    const link = button.parentElement.querySelector("a");
    if (link) link.tabIndex = 0;
  }

  move(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const at = buttons.indexOf(event.target.closest("button"));
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    let to = event.key in steps ? at + steps[event.key] : -1;
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = buttons.length - 1;
    if (to < 0 || to >= buttons.length) return;
    event.preventDefault();
    buttons[to].focus();
  }
}
