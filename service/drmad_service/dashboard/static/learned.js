// What was learned: lists of values that load when they come into view, with the training examples that
// belong to them, and sums by class and source. A worker reads the examples from the data set.
import { figure } from "./numbers.js";
import { request } from "./service.js";

const RELOAD_MS = 15_000; // a running job changes its values every meta-iteration
const EXAMPLES_TIMEOUT_MS = 90_000;
const GATHER_MS = 100;

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.isSeen = isIntersecting;
    if (isIntersecting) target.catchUp();
  }
}, { rootMargin: "150px" });

// One request asks for the examples of all lists that load together: a worker starts for each request.
const known = new Map();
let gathering = null;
function examplesOf(address, rows) {
  gathering ??= { rows: new Set(), answer: null };
  const { rows: wanted } = gathering;
  rows.filter((row) => !known.has(row)).forEach((row) => wanted.add(row));
  gathering.answer ??= new Promise((resolve) => setTimeout(resolve, GATHER_MS)).then(async () => {
    gathering = null;
    const asked = [...wanted];
    if (!asked.length) return "";
    const query = asked.map((row) => `row=${row}`).join("&");
    const { examples, error } = await request("GET", `${address}?${query}`, undefined, {}, EXAMPLES_TIMEOUT_MS);
    for (const [row, view] of Object.entries(examples)) known.set(Number(row), view);
    document.querySelectorAll("learned-groups").forEach((groups) => groups.load());
    return error;
  });
  return gathering.answer;
}

function element(name, content, className = "") {
  const made = document.createElement(name);
  made.className = className;
  made.append(...[content].flat());
  return made;
}

function picture(address, text) {
  const image = document.createElement("img");
  image.className = "example";
  image.src = address;
  image.alt = text;
  return image;
}

class LearnedEntries extends HTMLElement {
  static observedAttributes = ["version"];
  isStale = true;
  isSeen = false;
  isBusy = false;
  query = "";
  loaded = -Infinity;

  connectedCallback() {
    this.dataset.state ??= "waiting";
    if (!this.hasAttribute("found")) seen.observe(this);
  }
  disconnectedCallback() {
    seen.unobserve(this);
  }
  attributeChangedCallback(name, before, now) {
    if (before === null || before === now) return;
    this.isStale = true;
    const rest = Math.max(0, RELOAD_MS - (performance.now() - this.loaded));
    setTimeout(() => this.catchUp(), rest);
  }

  async catchUp() {
    if (this.isBusy || !this.isStale || !(this.isSeen || this.query)) return;
    this.isBusy = true;
    this.isStale = false;
    try {
      const query = this.query ? `&q=${encodeURIComponent(this.query)}` : "";
      await this.show(await request("GET", this.getAttribute("src") + query));
      this.loaded = performance.now();
    } catch (error) {
      this.say("failed", error.message);
    }
    this.isBusy = false;
    if (this.isStale) this.catchUp();
  }

  say(state, text) {
    this.dataset.state = state;
    this.replaceChildren(element("div", text, "wait"));
  }

  async show(entries) {
    if (!entries.length) return this.say("empty", this.query ? `No value is called ${this.query}. Search for an index or a part of a name.` : "No values.");
    const isExamples = this.getAttribute("kind") === "examples";
    const mayRead = isExamples && this.hasAttribute("examples"); // a worker runs the job's code to read them
    const rows = entries.map((entry) => this.row(entry, mayRead));
    this.replaceChildren(element("ol", rows.map(({ item }) => item), this.getAttribute("kind") === "images" ? "gallery" : ""));
    this.dataset.state = "drawn";
    if (!mayRead) return;
    const missing = () => rows.filter(({ index }) => !known.has(index));
    this.dataset.examples = "loading";
    let error = "";
    if (missing().length) {
      try {
        error = await examplesOf(this.getAttribute("examples"), rows.map(({ index }) => index));
      } catch (failure) {
        error = failure.message;
      }
    }
    for (const { index, place } of rows) {
      const view = known.get(index);
      if (view?.picture) place.replaceChildren(picture(view.picture, `training example ${index}`));
      else place.textContent = view?.text ?? (view ? "" : "not loaded");
      if (view?.picture && view.text) place.append(" ", view.text);
      for (const [name, label] of Object.entries(view?.groups ?? {})) place.append(" ", element("span", `${name} ${label}`, "label-of"));
    }
    this.dataset.examples = error ? "failed" : "shown";
    if (error) this.append(element("p", `The examples did not load: ${error}`, "wait"));
  }

  row({ index, label, value, untuned, picture: image, untuned_picture: before }, isExamples) {
    const place = element("span", isExamples ? "…" : label, "what");
    const item = document.createElement("li");
    item.dataset.index = index;
    if (image) {
      item.append(picture(image, `learned example ${index}`));
      if (before) item.append(picture(before, `untuned example ${index}`));
      item.append(element("span", String(index), "muted small"));
      return { item, index, place };
    }
    const from = untuned === null || untuned === value ? [] : [element("span", `from ${figure(untuned, 3)}`, "muted small")];
    item.append(...(isExamples ? [element("span", String(index), "muted mono")] : []), place, element("b", figure(value, 3)), ...from);
    return { item, index, place };
  }
}
customElements.define("learned-entries", LearnedEntries);

class LearnedGroups extends HTMLElement {
  async load() {
    try {
      const groups = await request("GET", this.getAttribute("src"));
      if (!groups.length) return;
      const most = Math.max(...groups.map(({ mean }) => mean));
      const cells = ({ group, label, rows, mean }) => {
        const bar = document.createElement("progress");
        bar.max = most || 1;
        bar.value = mean;
        bar.setAttribute("aria-label", `mean weight of ${group} ${label}`);
        const row = document.createElement("tr");
        row.append(element("td", `${group} ${label}`), element("td", rows.toLocaleString("en"), "number"), element("td", figure(mean, 3), "number"), element("td", bar));
        return row;
      };
      const head = document.createElement("tr");
      head.append(element("th", "Group"), element("th", "Rows", "number"), element("th", "Mean weight", "number"), element("th", element("span", "Bar", "visually-hidden")));
      const table = element("table", [element("thead", head), element("tbody", groups.map(cells))]);
      table.setAttribute("aria-label", "Weights by class and source");
      this.replaceChildren(table);
      this.dataset.state = "drawn";
    } catch {
      // The list above says what failed.
    }
  }
}
customElements.define("learned-groups", LearnedGroups);

let typing;
document.addEventListener("input", ({ target }) => {
  const search = target.closest(".learned-search");
  if (!search) return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    const list = search.querySelector("learned-entries");
    list.query = target.value.trim();
    list.isStale = true;
    if (list.query) list.catchUp();
    else list.replaceChildren();
  }, 250);
});
