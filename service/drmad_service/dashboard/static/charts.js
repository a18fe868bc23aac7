// <job-chart src="..."> draws a figure of the service in the colours of the page: lines with uPlot, which
// appends to them, all else with plotly. Its data-state is waiting, drawn, empty (the figure has no data)
// or failed.
import { LineView, isLines } from "./line_view.js";
import { PlotlyView } from "./plotly_view.js";
import { Refused, request } from "./service.js";

const MAX_DRAW_MS = 10_000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
const REDRAW_SHARE = 10; // between two redraws the page rests this many times as long as the last one took

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Draws one chart at a time and lets the browser paint between two charts. A chart that takes longer
// than MAX_DRAW_MS does not block the others.
let last = Promise.resolve();
function inTurn(draw) {
  const mine = last.then(() => pause(0)).then(draw);
  last = Promise.race([mine.catch(() => {}), last.then(() => pause(MAX_DRAW_MS))]);
  return mine;
}

// A redraw waits until the charts of its kind have rested for REDRAW_SHARE times as long as the last drawing
// took, so that charts leave the main thread free, however long their histories are.
async function measured(View, draw) {
  const began = performance.now();
  await draw();
  const ended = performance.now();
  View.restsUntil = Math.max(View.restsUntil, ended) + REDRAW_SHARE * (ended - began);
}
async function rested(View) {
  while (performance.now() < View.restsUntil) await pause(Math.min(1000, View.restsUntil - performance.now()));
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.isSeen = isIntersecting;
  for (const { target, isIntersecting } of entries) if (isIntersecting) target.catchUp();
}, { rootMargin: "150px" });

export class JobChart extends HTMLElement {
  isStale = true;
  isSeen = false;
  isBusy = false;
  failures = 0;

  connectedCallback() {
    this.dataset.state ??= "waiting";
    seen.observe(this);
    this.onTheme = () => this.view?.recolour();
    document.addEventListener("drmad:theme", this.onTheme);
  }

  disconnectedCallback() {
    seen.unobserve(this);
    this.isSeen = false;
    document.removeEventListener("drmad:theme", this.onTheme);
    queueMicrotask(() => this.isConnected || this.view?.destroy()); // a merge may only have moved it
  }

  /** Marks the data as changed; the chart is redrawn when it is in view. */
  stale() {
    this.isStale = true;
    this.catchUp();
  }

  async catchUp() {
    if (this.isBusy) return; // the loop below repeats while the chart is stale
    this.isBusy = true;
    while (this.isSeen && this.isStale && !document.hidden) {
      this.isStale = false;
      try {
        if (this.view) await rested(this.view.constructor);
        const figure = await this.fetch();
        const text = JSON.stringify(figure);
        if (text !== this.drawn) await this.show(figure); // most events change only some of the figures
        this.drawn = text;
        this.failures = 0;
      } catch (error) {
        this.fail(error);
        break;
      }
    }
    this.isBusy = false;
  }

  /** Keeps the last figure. Retries temporary errors with exponential backoff. */
  fail(error) {
    const isFinal = error instanceof Refused && error.status < 500 && error.status !== 429;
    if (!this.figure) this.say("failed", isFinal ? error.message : "This chart did not load. Retrying.");
    if (isFinal) return;
    this.isStale = true;
    pause(Math.min(FIRST_RETRY_MS * 2 ** this.failures++, MAX_RETRY_MS)).then(() => this.catchUp());
  }

  fetch() {
    return request("GET", this.getAttribute("src"));
  }

  say(state, text) {
    this.dataset.state = state;
    const line = document.createElement("div");
    line.className = "wait";
    line.textContent = text;
    this.replaceChildren(line);
  }

  async show(figure) {
    const View = isLines(figure) ? LineView : PlotlyView;
    if (!figure.data.length || !(this.view instanceof View)) {
      this.view?.destroy();
      this.view = null;
    }
    if (!figure.data.length) return this.say("empty", figure.layout.annotations?.[0]?.text ?? "No data yet");
    await View.load();
    await inTurn(() => {
      if (this.view) return measured(View, () => this.view.show(figure));
      this.view = new View(this);
      return this.view.show(figure);
    });
    this.figure = figure;
    this.dataset.state = "drawn";
  }
}
customElements.define("job-chart", JobChart);

document.addEventListener("visibilitychange", () => {
  for (const chart of document.querySelectorAll("job-chart")) chart.catchUp();
});
