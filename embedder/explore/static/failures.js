// The failed images by reason, and the ledger page by page.

import { ask } from "./api.js";
import { count, element, place, shown } from "./text.js";

const PAGE_ROWS = 50;
const part = (id) => document.getElementById(id);

export class Failures {
  constructor({ say, fail }) {
    this.say = say;
    this.fail = fail;
    this.visit = 0;
    part("more").addEventListener("click", () => this.more());
  }

  async show(about, reason) {
    this.visit += 1;
    this.reason = reason;
    this.offset = 0;
    part("failed-rows").replaceChildren();
    part("failed").hidden = true;
    part("failures-about").textContent = about.failed
      ? `${count(about.failed)} of ${count(about.requested)} images are not in the result. Choose a reason.`
      : `All ${count(about.requested)} images are in the result.`;
    part("reasons").replaceChildren(...about.failures.map((each) => this.button(each)));
    part("more").hidden = true;
    part("searched").textContent = "";
    if (about.failed) await this.more();
  }

  button({ reason, count: images, help }) {
    const made = element(
      "button", { type: "button" },
      element("span", { class: "count", textContent: count(images) }),
      element("strong", { textContent: shown(reason) }),
      element("span", { class: "help", textContent: help }),
    );
    const isChosen = reason === this.reason;
    made.setAttribute("aria-pressed", String(isChosen));
    made.addEventListener("click", () => {
      location.hash = isChosen ? "#/failures" : `#/failures/${encodeURIComponent(reason)}`;
    });
    return element("li", {}, made);
  }

  async more() {
    const visit = this.visit;
    part("more").disabled = true;
    try {
      const page = await ask("api/failures", { offset: this.offset, reason: this.reason, count: PAGE_ROWS });
      if (visit !== this.visit) return;
      part("failed-rows").append(...page.rows.map(line));
      this.offset = page.next_offset;
      const shownRows = part("failed-rows").childElementCount;
      part("failed").hidden = shownRows === 0;
      part("more").hidden = page.next_offset === null;
      part("searched").textContent = page.next_offset === null || !page.size
        ? "" : `${Math.floor((100 * page.next_offset) / page.size)} % of the ledger is looked through`;
      this.say(`${count(shownRows)} failed images are shown`);
    } catch (error) {
      if (visit === this.visit) this.fail(error);
    } finally {
      part("more").disabled = false;
    }
  }
}

function line(row) {
  const cell = (text, kind = "") => element("td", { textContent: shown(text), dir: "ltr", class: kind });
  return element(
    "tr", {}, cell(String(row.chunk)), cell(String(row.row)), cell(row.id),
    element("td", {}, place(row.url)), cell(row.reason, "reason"), cell(row.detail),
  );
}
