// The page: what its address after # says is what it shows, so the browser's back button works.

import { ask } from "./api.js";
import { Failures } from "./failures.js";
import { Grid } from "./grid.js";
import { EmbeddingMap } from "./map.js";
import { showPicture } from "./pictures.js";
import { count, place, shown } from "./text.js";

const PAGE_ROWS = 48;
const MARKED_ROWS = 12; // the best rows of a search, which the map marks
const MAX_IMAGE_BYTES = 32 * 2 ** 20;
const part = (id) => document.getElementById(id);

let about = null;
let visit = 0; // the number of the view that was asked for last; answers for earlier ones are dropped
let current = { view: "pictures", asked: {}, start: 0 };
let dropped = null; // the picture that was given last: its name, and an address to show it
let leavingQuery = new AbortController();

const say = (text) => { part("live").textContent = text; };
const fail = (error) => {
  part("problem").textContent = shown(error.message);
  part("problem").hidden = false;
};
const grid = new Grid(part("grid"));
const map = new EmbeddingMap({ say, fail });
const failures = new Failures({ say, fail });

async function show({ isFirst = false } = {}) {
  visit += 1;
  part("problem").hidden = true;
  let [kind, rest = "", start = "0"] = [];
  try {
    [kind, rest = "", start = "0"] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  } catch {
    kind = "rows"; // an address that someone has changed by hand
  }
  const view = { map: "map", failures: "failures" }[kind] ?? "pictures";
  for (const name of ["pictures", "map", "failures"]) part(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view !== "map") map.close();
  if (!isFirst) part({ map: "map-title", failures: "failures-title" }[view] ?? "title").focus({ preventScroll: true });
  if (!isFirst) scrollTo(0, 0);
  if (view === "map") map.open();
  else if (view === "failures") await failures.show(about, rest);
  else await showPictures(kind, rest, /^\d{1,9}$/.test(start) ? Number(start) : 0);
}

async function showPictures(kind, rest, start) {
  const isRow = kind === "near" && /^\d{1,15}$/.test(rest);
  const asked = isRow ? { row: rest } : kind === "text" && rest ? { text: rest }
    : kind === "image" && rest ? { image: rest } : {};
  const isAsked = Object.keys(asked).length > 0;
  current = { kind: isAsked ? kind : "rows", rest, start };
  title(asked);
  part("text").value = asked.text ?? "";
  say("Searching…");
  part("pictures").setAttribute("aria-busy", "true");
  const mine = visit;
  try {
    const page = await ask(isAsked ? "api/search" : "api/rows", { ...asked, start, count: PAGE_ROWS });
    if (mine !== visit) return;
    grid.show(page.rows);
    const best = page.rows.slice(0, MARKED_ROWS).map((row) => row.row);
    map.mark(isAsked ? [...best, ...(isRow ? [Number(rest)] : [])] : []);
    pages(page);
  } catch (error) {
    if (mine !== visit) return;
    grid.clear();
    part("pages").hidden = true;
    say("");
    fail(error);
  } finally {
    if (mine === visit) part("pictures").removeAttribute("aria-busy");
  }
}

function title(asked) {
  leavingQuery.abort();
  leavingQuery = new AbortController();
  const frame = part("query-picture");
  frame.replaceChildren();
  frame.hidden = true;
  part("query-about").textContent = "";
  part("query-link").replaceChildren();
  if (asked.row) {
    part("title").textContent = `Near row ${asked.row}`;
    frame.hidden = false;
    showPicture(frame, Number(asked.row), leavingQuery.signal, { now: true });
    const mine = visit;
    ask("api/row", { row: asked.row }).then(({ url, id }) => {
      if (mine !== visit) return;
      part("query-about").textContent = id === null ? "" : shown(id);
      part("query-link").replaceChildren(place(url));
    }).catch(() => {}); // the search itself says what is wrong
  } else if (asked.text) {
    part("title").textContent = `“${shown(asked.text)}”`;
  } else if (asked.image) {
    part("title").textContent = "Near your picture";
    if (dropped?.name === asked.image) {
      const image = document.createElement("img");
      image.alt = "";
      image.src = dropped.address;
      image.addEventListener("error", () => { frame.hidden = true; }); // a format that the browser does not show
      frame.replaceChildren(image);
      frame.hidden = false;
    }
  } else part("title").textContent = "All pictures";
}

function pages({ rows, start, total }) {
  const last = start + rows.length;
  const range = rows.length ? `${count(start + 1)} to ${count(last)} of ${count(total)}` : "No pictures";
  part("pages").hidden = total <= PAGE_ROWS && start === 0 && rows.length > 0;
  part("range").textContent = range;
  part("previous").disabled = start === 0;
  part("next").disabled = last >= total;
  say(`${range}: ${part("title").textContent}`);
}

function turn(by) {
  const start = Math.max(0, current.start + by);
  const rest = current.kind === "rows" ? "all" : current.rest;
  location.hash = `#/${current.kind}/${encodeURIComponent(rest)}/${start}`;
}

async function searchByPicture(file) {
  if (!file) return;
  part("problem").hidden = true;
  if (file.size > MAX_IMAGE_BYTES) {
    fail(new Error("the picture is larger than 32 MiB; choose a smaller one"));
    return;
  }
  say("Looking at your picture…");
  try {
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    const { image } = await ask("api/image", {}, options);
    if (dropped) URL.revokeObjectURL(dropped.address);
    dropped = { name: image, address: URL.createObjectURL(file) };
    const target = `#/image/${image}`;
    if (location.hash === target) show();
    else location.hash = target;
  } catch (error) {
    say("");
    fail(error);
  }
}

function tellAbout() {
  const model = about.revision ? `${about.model} at ${about.revision.slice(0, 8)}` : about.model;
  const search = { ready: about.search === "index" ? "searched by its index" : "searched exactly", loading: "index loads…" };
  part("about").textContent = shown([
    about.run, `${count(about.rows)} pictures`, about.failed ? `${count(about.failed)} failed` : "", model,
    `${about.dimensions} dimensions`, search[about.search_state] ?? about.search_message,
  ].filter(Boolean).join(" · "));
  part("warning").hidden = !about.is_untrained;
  part("warning").textContent = "The model is untrained: its weights are random numbers. Pictures with like colours may lie "
    + "near each other, but answers to a text mean nothing.";
  const isRefused = about.text_state === "failed";
  for (const id of ["text", "go", "choose"]) part(id).disabled = isRefused;
  part("search-note").textContent = isRefused
    ? `No search by text or picture: ${shown(about.text_message)}. A click on a picture still finds what is near it.`
    : about.text_state === "loading" ? "The model is loading; a search waits for it." : "";
}

// The model and the index load while the page is looked at.
async function followAbout() {
  while (about.text_state === "loading" || about.search_state === "loading") {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      about = await ask("api/about");
      tellAbout();
    } catch {
      return; // the next click says so
    }
  }
}

function listen() {
  part("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = part("text").value.trim();
    const target = text ? `#/text/${encodeURIComponent(text)}` : "#/rows";
    if (location.hash === target) show();
    else location.hash = target;
  });
  part("choose").addEventListener("click", () => part("file").click());
  part("file").addEventListener("change", () => {
    searchByPicture(part("file").files[0]);
    part("file").value = "";
  });
  part("previous").addEventListener("click", () => turn(-PAGE_ROWS));
  part("next").addEventListener("click", () => turn(PAGE_ROWS));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address after # is a view
    part("content").focus();
  });
  addEventListener("hashchange", () => show());
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) searchByPicture(file);
  });
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    part("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) part("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    part("drop").hidden = true;
    if (!hasFile(event)) return;
    event.preventDefault();
    searchByPicture(event.dataTransfer.files[0]);
  });
}

listen();
try {
  about = await ask("api/about");
  tellAbout();
  await show({ isFirst: true });
  document.documentElement.dataset.state = "ready";
  followAbout();
} catch (error) {
  fail(error);
}
