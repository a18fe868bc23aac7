// Draws a figure with plotly: heat maps, bars, points and parallel coordinates.
import { COLOURS, inTheme, themeColour } from "./chart_colours.js";

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };

let loading;

/** Loads plotly when the first chart that needs it scrolls into view, because its script is large. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.querySelector("script[data-plotly]").dataset.plotly;
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

function template() {
  const axis = {
    gridcolor: themeColour("--line"), linecolor: themeColour("--line-strong"), zerolinecolor: themeColour("--line-strong"),
    tickfont: { color: themeColour("--muted"), size: 11 }, title: { font: { color: themeColour("--muted"), size: 12 }, standoff: 10 },
    ticks: "", ticklabelstandoff: 4, automargin: true, exponentformat: "e", nticks: 7,
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: COLOURS.map((_, index) => themeColour(`--c${index}`)),
      font: { family: "Inter, sans-serif", color: themeColour("--text"), size: 12 },
      margin: { l: 56, r: 16, t: 14, b: 34 }, xaxis: axis, yaxis: axis,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11.5, color: themeColour("--muted") } },
      hoverlabel: { bgcolor: themeColour("--surface"), bordercolor: themeColour("--line-strong"), font: { color: themeColour("--text"), size: 12 } },
      coloraxis: { colorbar: { outlinewidth: 0 } },
    },
    data: { heatmap: [{ colorbar: {
      outlinewidth: 0, thickness: 10, tickfont: { color: themeColour("--muted"), size: 11 },
      title: { font: { color: themeColour("--muted"), size: 12 } },
    } }] },
  };
}

export class PlotlyView {
  static load = plotly;
  static restsUntil = 0;

  constructor(host) {
    this.host = host;
    this.least = host.offsetHeight;
    this.plot = document.createElement("div");
    this.plot.style.height = "100%";
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", host.getAttribute("aria-label"));
    host.replaceChildren(this.plot);
  }

  show(figure) {
    this.figure = figure;
    const { data, layout: { title, height = 0, ...layout } } = figure; // the page sets the heading
    if (height > this.least) this.host.style.height = `${height}px`;
    const shown = { ...layout, template: template(), uirevision: "kept", autosize: true };
    this.plot.dataset.points = Math.max(0, ...data.map((trace) => trace.x?.length ?? 0));
    return window.Plotly.react(this.plot, JSON.parse(inTheme(JSON.stringify(data))), JSON.parse(inTheme(JSON.stringify(shown))), CONFIG);
  }

  recolour() {
    this.show(this.figure);
  }

  destroy() {
    window.Plotly.purge(this.plot);
  }
}
