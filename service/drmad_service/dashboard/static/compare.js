// Draws the validation losses of the selected jobs in one chart.
import { JobChart } from "./charts.js";
import { request } from "./service.js";

const COLOURS = ["#3f87c9", "#d9822b", "#2f9e6e", "#b05cc4", "#c94f4f", "#8a7a3a", "#4a5bc4", "#6e7b86"];

JobChart.prototype.fetch = async function () {
  const links = [...document.querySelectorAll("[data-curve]")];
  const figures = await Promise.all(links.map((link) => request("GET", link.dataset.curve)));
  const data = figures.flatMap((figure, index) => {
    const trace = figure.data.find((trace) => trace.name === "validation");
    if (!trace) return [];
    // plotly interprets some tags in names; escaping shows the name of a job as text.
    const name = links[index].textContent.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
    return [{ ...trace, name, xaxis: "x", yaxis: "y", line: { color: COLOURS[index], width: 2 } }];
  });
  const layout = {
    showlegend: false, hovermode: "x unified",
    xaxis: { title: { text: "meta-iteration" } }, yaxis: { title: { text: "validation loss" } },
  };
  return { data, layout };
};
