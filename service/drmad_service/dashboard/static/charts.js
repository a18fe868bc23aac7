// <job-chart src="..."> draws a figure of the service with plotly, in the colours of the page. Its
// data-state is waiting, drawn, empty (the figure has no data) or failed.
import { Refused, request } from "./service.js";

const LEGEND_ROW = 22;
const LEGEND_ROWS = 2; // that the height of a chart has room for
const MAX_DRAW_MS = 10_000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
const REDRAW_SHARE = 10; // between two redraws the page rests this many times as long as the last one took
export const COLOURS = ["#2f74b8", "#c87820", "#892620", "#049c85", "#787ffb", "#165165", "#cc2a50", "#2c29d4"];
const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

const plotlyAddress = document.querySelector("script[data-plotly]").dataset.plotly;
let loading;

/** Loads plotly when the first chart scrolls into view, because its script is large. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = plotlyAddress;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = undefined;
      script.remove();
      reject(new Error("The plotly script did not load"));
    };
    document.head.append(script);
  });
  return loading;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Draws one chart at a time and lets the browser paint between two charts. A chart that takes longer
// than MAX_DRAW_MS does not block the others.
let last = Promise.resolve();
function inTurn(draw) {
  const mine = last.then(() => pause(0)).then(draw);
  last = Promise.race([mine.catch(() => {}), last.then(() => pause(MAX_DRAW_MS))]);
  return mine;
}

// A redraw waits until the charts of this page have rested for REDRAW_SHARE times as long as the last
// drawing took, so that charts take a tenth of the main thread at most, however long their histories are.
let restsUntil = 0;
async function measured(draw) {
  const began = performance.now();
  await draw();
  const ended = performance.now();
  restsUntil = Math.max(restsUntil, ended) + REDRAW_SHARE * (ended - began);
}
const rested = async () => {
  while (performance.now() < restsUntil) await pause(Math.min(1000, restsUntil - performance.now()));
};

const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16)).join(", ");

/** The figure in the colours of the theme: figures have those of a light page. */
function themed(figure) {
  const style = getComputedStyle(document.documentElement);
  let text = JSON.stringify(figure);
  COLOURS.forEach((light, index) => {
    const here = style.getPropertyValue(`--c${index}`).trim();
    text = text.replaceAll(`"${light}"`, `"${here}"`).replaceAll(`rgba(${channels(light)}`, `rgba(${channels(here)}`);
  });
  return JSON.parse(text);
}

function template() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line-strong"), zerolinecolor: colour("--line-strong"),
    tickfont: { color: colour("--muted"), size: 11 }, title: { font: { color: colour("--muted"), size: 12 }, standoff: 10 },
    ticks: "", ticklabelstandoff: 4, automargin: true, exponentformat: "e", nticks: 7,
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS.map((_, index) => colour(`--c${index}`)),
      font: { family: "Inter, sans-serif", color: colour("--text"), size: 12 },
      margin: { l: 56, r: 16, t: 14, b: 34 }, xaxis: axis, yaxis: axis,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5, color: colour("--muted") } },
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line-strong"), font: { color: colour("--text"), size: 12 } },
      coloraxis: { colorbar: { outlinewidth: 0 } },
    },
    data: { heatmap: [{ colorbar: {
      outlinewidth: 0, thickness: 10, tickfont: { color: colour("--muted"), size: 11 },
      title: { font: { color: colour("--muted"), size: 12 } },
    } }] },
  };
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
    this.onTheme = () => this.figure && this.show(this.figure);
    document.addEventListener("drmad:theme", this.onTheme);
  }

  disconnectedCallback() {
    seen.unobserve(this);
    this.isSeen = false;
    document.removeEventListener("drmad:theme", this.onTheme);
  }

  /** Marks the data as changed; the chart is redrawn when it is in view. */
  stale() {
    this.isStale = true;
    this.catchUp();
  }

  async catchUp() {
    if (this.isBusy) return; // the loop below repeats while the chart is stale
    this.isBusy = true;
    while (this.isSeen && this.isStale) {
      this.isStale = false;
      try {
        plotly().catch(() => {}); // loads in parallel with the figure; show() reports a failure
        if (this.figure) await rested();
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

  /** As high as the panels of the figure need, and on a narrow page the rows of its legend. */
  makeRoom({ data, layout }) {
    this.least ??= this.offsetHeight;
    const named = data.filter(({ showlegend }) => layout.showlegend && showlegend !== false);
    const width = named.reduce((sum, { name }) => sum + 50 + 6.5 * String(name ?? "").length, 0);
    const rows = Math.ceil(width / Math.max(200, this.clientWidth - 90));
    const height = Math.max(this.least, layout.height ?? 0) + LEGEND_ROW * Math.max(0, rows - LEGEND_ROWS);
    if (height > this.least) this.style.height = `${height}px`;
  }

  async show(figure) {
    const why = figure.data.length ? null : (figure.layout.annotations?.[0]?.text ?? "No data yet");
    if (why && !this.plot) return this.say("empty", why);
    const Plotly = await plotly();
    if (!this.plot) {
      this.plot = document.createElement("div");
      this.plot.style.height = "100%";
      this.replaceChildren(this.plot);
    }
    this.makeRoom(figure);
    const { title, height, ...layout } = figure.layout; // the page sets the heading and the height
    const shown = { ...layout, template: template(), uirevision: "kept", autosize: true };
    const draw = () => Plotly.react(this.plot, themed(figure.data), themed(shown), CONFIG);
    await inTurn(this.figure ? () => measured(draw) : draw);
    this.figure = figure;
    this.dataset.state = "drawn";
    this.plot.dataset.points = Math.max(0, ...figure.data.map((trace) => trace.x?.length ?? 0));
  }
}
customElements.define("job-chart", JobChart);
