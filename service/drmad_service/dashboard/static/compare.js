// Draws the validation losses of the selected jobs in one chart.
import { COLOURS } from "./chart_colours.js";
import { JobChart } from "./charts.js";
import { request } from "./service.js";

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px", "2px,6px"];

const fetchFigure = JobChart.prototype.fetch;

JobChart.prototype.fetch = async function () {
  if (this.hasAttribute("src")) return fetchFigure.call(this);
  const links = [...document.querySelectorAll("[data-curve]")];
  const figures = await Promise.all(links.map((link) => request("GET", link.dataset.curve)));
  const data = figures.flatMap((figure, index) => {
    const trace = figure.data.find((trace) => trace.name === "validation, smoothed") ?? figure.data.find((trace) => trace.name === "validation");
    if (!trace) return [];
    // Texts of figures may have some tags; escaping shows the name of a job as text.
    const name = links[index].textContent.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    return [{ ...trace, name, xaxis: "x", yaxis: "y", showlegend: false, opacity: 1, line: { color: COLOURS[index], dash: DASHES[index], width: 2 } }];
  });
  const layout = {
    showlegend: false, hovermode: "x unified",
    xaxis: { ...figures[0]?.layout.xaxis, anchor: "y" }, yaxis: { title: { text: "validation loss" } },
  };
  return { data, layout };
};

// The second job of a pair is chosen
document.addEventListener("change", ({ target }) => {
  if (!target.matches("[data-pair]")) return;
  const chart = target.closest("section").querySelector("job-chart");
  chart.setAttribute("src", target.value);
  chart.stale();
});
