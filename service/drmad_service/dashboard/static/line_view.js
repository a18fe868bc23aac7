// Draws the lines of a figure with uPlot: one plot for each panel, below a legend they share. New data
// extend the same plots, so that canvases, zoom and hidden lines stay.
import { plotOptions } from "./line_plot.js";
import { hoverText, swatch, words } from "./line_words.js";
import uPlot from "./vendor/uplot.esm.min.js";

const LEAST_PANEL = 126; // pixels of a panel of several, with its title
const X_AXIS = 22;

/** Whether a figure is read over an x axis that its lines share. */
export const isLines = ({ layout }) => layout.hovermode === "x unified";

/** What is hidden and shown together. */
const groupOf = (trace) => trace.legendgroup ?? trace.name;

export class LineView {
  static load = async () => {};
  static restsUntil = 0;

  hidden = new Set();
  zoom = null; // the ends of the part of the x axis that the reader chose
  plots = [];

  constructor(host) {
    this.host = host;
    this.least = host.offsetHeight;
    this.legend = make("div", "legend");
    this.plot = make("div", "plots");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "img");
    this.said = make("div", "hover");
    this.said.setAttribute("role", "status");
    this.said.hidden = true;
    this.frame = make("div", "lines-of");
    this.frame.append(this.legend, this.plot, this.said);
    host.replaceChildren(this.frame);
    this.plot.addEventListener("keydown", (event) => this.#key(event));
    this.plot.addEventListener("blur", () => this.#point(null));
    this.sizes = new ResizeObserver(() => this.#resize());
    this.sizes.observe(host);
  }

  show(figure) {
    this.figure = figure;
    this.#name();
    this.#list();
    const panels = panelsOf(figure, (trace) => !this.hidden.has(groupOf(trace)));
    const kind = JSON.stringify(panels.map(({ title, axis: { range, ...axis }, traces }) => [
      title, axis, traces.map(({ x, y, text, mode, ...style }) => [style, Boolean(style.marker)]),
    ]));
    this.panels = panels;
    this.ends = endsOf(panels);
    if (kind !== this.kind) this.#build();
    else this.plots.forEach((plot, index) => plot.setData(panels[index].columns));
    this.kind = kind;
    this.plot.dataset.points = Math.max(0, ...figure.data.map((trace) => trace.x.length));
  }

  /** The ends of the x axis: those that the reader chose, or those of all lines. */
  get shownX() {
    return this.zoom ?? this.ends;
  }

  /** Draws the same lines in the colours of another theme. */
  recolour() {
    for (const plot of this.plots) plot.redraw();
  }

  destroy() {
    this.sizes.disconnect();
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
  }

  #build() {
    for (const plot of this.plots) plot.destroy();
    const { xaxis, annotations = [] } = this.figure.layout;
    const titles = this.panels.map(({ title }) => make("div", "axis-title", title));
    const note = annotations.map(({ text }) => make("p", "muted small", words(text)));
    this.plot.replaceChildren(make("div", "axis-title x", words(xaxis.title.text)), ...note);
    this.plots = this.panels.map((panel, index) => {
      const options = plotOptions(this, index, index === this.panels.length - 1);
      const plot = new uPlot({ ...options, ...this.#size(index) }, panel.columns, (made, ready) => {
        this.plot.querySelector(".axis-title.x").before(titles[index], made.root);
        ready();
      });
      return plot;
    });
    this.#resize();
  }

  /** Gives the panels the height of the chart, and the chart the height that its panels need. */
  #resize() {
    if (!this.plots.length) return;
    const more = this.frame.offsetHeight - this.plots.reduce((sum, plot) => sum + plot.height, 0);
    const padding = this.host.offsetHeight - this.#space();
    const panels = this.plots.length;
    const needed = more + padding + X_AXIS + panels * (panels > 1 ? LEAST_PANEL : 160);
    const height = Math.max(this.least, this.figure.layout.height ?? 0, needed);
    if (height > this.host.offsetHeight) this.host.style.height = `${height}px`;
    this.each = (this.#space() - more - X_AXIS) / panels;
    this.plots.forEach((plot, index) => {
      const size = this.#size(index);
      if (size.width !== plot.width || size.height !== plot.height) plot.setSize(size);
    });
  }

  #space() {
    const { paddingTop, paddingBottom } = getComputedStyle(this.host);
    return this.host.clientHeight - parseFloat(paddingTop) - parseFloat(paddingBottom);
  }

  #size(index) {
    const isLast = index === this.panels.length - 1;
    return { width: this.plot.clientWidth, height: Math.floor((this.each ?? LEAST_PANEL) + (isLast ? X_AXIS : 0)) };
  }

  // Legend

  #list() {
    const { data, layout } = this.figure;
    const entries = layout.showlegend ? data.filter((trace) => trace.showlegend !== false) : [];
    const listed = JSON.stringify(entries.map(({ name, line, marker }) => [name, line, marker]));
    if (listed === this.listed) return;
    this.listed = listed;
    const groups = [...new Set(entries.map(groupOf))];
    this.legend.replaceChildren(...entries.map((trace) => {
      const button = make("button", "", words(trace.name));
      button.type = "button";
      button.prepend(swatch(trace));
      const press = () => button.setAttribute("aria-pressed", !this.hidden.has(groupOf(trace)));
      press();
      button.addEventListener("click", () => this.#toggle([groupOf(trace)]));
      button.addEventListener("dblclick", () => {
        this.hidden = new Set(groups.filter((group) => group !== groupOf(trace)));
        this.#toggle([]);
      });
      button.press = press;
      return button;
    }));
  }

  #toggle(groups) {
    for (const group of groups) this.hidden.delete(group) || this.hidden.add(group);
    for (const button of this.legend.children) button.press();
    this.show(this.figure);
  }

  // Zoom, hover and keyboard

  /** Shows a part of the x axis in all panels; null shows all of it. */
  zoomTo(ends) {
    this.zoom = ends;
    this.plots.forEach((plot, index) => plot.setData(this.panels[index].columns));
  }

  /** Says the values at the cursor of a panel, and shows the cursor in the other panels too. */
  pointed(plot) {
    const { left, top, idx } = plot.cursor;
    if (left >= 0 && top < 0) return; // it follows that of another panel
    for (const other of this.plots) if (other !== plot) other.setCursor({ left, top: -10 }, false);
    const isAway = left < 0 || idx === null || idx === undefined;
    this.said.hidden = isAway;
    if (isAway) return;
    const panel = this.panels[this.plots.indexOf(plot)];
    this.said.replaceChildren(...hoverText(this.figure.layout, panel, plot, idx));
    const box = plot.over.getBoundingClientRect(), frame = this.frame.getBoundingClientRect();
    const isRight = left > box.width / 2;
    this.said.style.top = `${box.top - frame.top}px`;
    this.said.style.left = isRight ? "" : `${box.left - frame.left + left + 12}px`;
    this.said.style.right = isRight ? `${frame.right - box.left - left + 12}px` : "";
  }

  #key(event) {
    const [plot] = this.plots;
    if (!plot) return;
    const [xs] = this.panels[this.at?.panel ?? 0].columns;
    const { panel = 0, index = -1 } = this.at ?? {};
    const moves = {
      ArrowLeft: { panel, index: Math.max(0, index < 0 ? xs.length - 1 : index - 1) },
      ArrowRight: { panel, index: Math.min(xs.length - 1, index + 1) },
      Home: { panel, index: 0 },
      End: { panel, index: xs.length - 1 },
      ArrowUp: { panel: Math.max(0, panel - 1), index: Math.max(0, index) },
      ArrowDown: { panel: Math.min(this.plots.length - 1, panel + 1), index: Math.max(0, index) },
    };
    if (event.key === "Escape") return this.zoom && !this.at ? this.zoomTo(null) : this.#point(null);
    if (!moves[event.key]) return;
    event.preventDefault();
    this.#point(moves[event.key]);
  }

  /** Moves the cursor to a point of a panel, from the keyboard. */
  #point(at) {
    this.at = at;
    const plot = this.plots[at?.panel ?? 0];
    if (!plot) return;
    if (!at) return plot.setCursor({ left: -10, top: -10 });
    const [xs] = this.panels[at.panel].columns;
    plot.setCursor({ left: plot.valToPos(xs[Math.min(at.index, xs.length - 1)], "x"), top: 0 });
  }

  /** Names the chart for a reader who does not see it: each line's first and last value. */
  #name() {
    const { data, layout } = this.figure;
    const said = data.filter((trace) => trace.hoverinfo !== "skip" && (!layout.showlegend || trace.showlegend !== false)).map((trace) => {
      const known = trace.y.filter((value) => value !== null);
      const ends = known.length > 1 ? `${known[0]} to ${known.at(-1)}` : `${known[0] ?? "no value"}`;
      return `${words(trace.name)}: ${ends}`;
    });
    const label = `${this.host.getAttribute("aria-label")}, over the ${words(layout.xaxis.title.text)}. ${said.join("; ")}. Arrow keys read the values.`;
    this.plot.setAttribute("aria-label", label);
  }
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(text);
  return element;
}

/** The panels of a figure, each with its lines and what uPlot draws: x values, and a column for each line. */
function panelsOf({ data, layout }, isShown) {
  const isDate = layout.xaxis.type === "date";
  const place = (x) => (isDate ? Date.parse(`${x.replace(" ", "T")}Z`) / 1000 : x);
  return Object.keys(layout).filter((key) => key.startsWith("yaxis")).map((key) => {
    const axis = layout[key];
    const traces = data.filter((trace) => isShown(trace) && (trace.yaxis ?? "y") === `y${key.slice(5)}`);
    return { title: words(axis.title.text), axis, traces, ...columnsOf(traces, place, axis.type === "log") };
  });
}

/**
 * Lines on the x values of all of them, where uPlot takes null for a gap and undefined for none, and for
 * each line the number of its point by the index in these columns.
 */
function columnsOf(traces, place, isLog) {
  const xs = [...new Set(traces.flatMap(({ x }) => x.map(place)))].sort((one, other) => one - other);
  const index = new Map(xs.map((x, number) => [x, number]));
  const below = new Array(xs.length).fill(0);
  const points = traces.map(({ x }) => new Map(x.map((at, number) => [index.get(place(at)), number])));
  const columns = traces.map(({ y, stackgroup }, line) => {
    const column = new Array(xs.length);
    for (const [where, number] of points[line]) {
      const value = y[number];
      column[where] = isLog && value <= 0 ? null : value;
      if (stackgroup) column[where] = below[where] += value ?? 0;
    }
    return column;
  });
  return { columns: [xs, ...columns], points };
}

/** The ends of the x axis, which all panels share. */
function endsOf(panels) {
  const all = panels.flatMap(({ columns: [xs] }) => (xs.length ? [xs[0], xs.at(-1)] : []));
  const low = Math.min(...all), high = Math.max(...all);
  if (!all.length) return [0, 1];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}
