// <job-chart src="..."> draws a figure of the service with plotly, in the colours of the page. Its
// data-state is waiting, drawn, empty (the figure has no data) or failed.
import { Refused, request } from "./service.js";

const TALL_HEIGHT = 480;
const MAX_DRAW_MS = 10_000;
const FIRST_RETRY_MS = 1000;
const MAX_RETRY_MS = 30_000;
const COLOURS = ["#3f87c9", "#d9822b", "#2f9e6e", "#b05cc4", "#c94f4f", "#8a7a3a", "#4a5bc4", "#6e7b86"];
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
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS,
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
        await this.show(await this.fetch());
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
    const why = figure.data.length ? null : (figure.layout.annotations?.[0]?.text ?? "No data yet");
    if (why && !this.plot) return this.say("empty", why);
    const Plotly = await plotly();
    if (!this.plot) {
      this.plot = document.createElement("div");
      this.plot.style.height = "100%";
      this.replaceChildren(this.plot);
    }
    if ((figure.layout.height ?? 0) > TALL_HEIGHT) this.dataset.height = "tall";
    const { title, height, ...layout } = figure.layout; // the page sets the heading and the height
    const shown = { ...layout, template: template(), uirevision: "kept", autosize: true };
    await inTurn(() => Plotly.react(this.plot, figure.data, shown, CONFIG));
    this.figure = figure;
    this.dataset.state = "drawn";
    this.plot.dataset.points = Math.max(0, ...figure.data.map((trace) => trace.x?.length ?? 0));
  }
}
customElements.define("job-chart", JobChart);
