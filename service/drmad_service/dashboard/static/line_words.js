// The texts and signs of a line chart: ticks, values under the cursor, and the entries of its legend.
import { COLOURS } from "./chart_colours.js";
import { figure } from "./numbers.js";

const NEAR = 20; // pixels from the cursor within which a line has a value to tell
const SVG = "http://www.w3.org/2000/svg";

/** The signs of marks, drawn around the origin in ten units, on the chart and in its legend. */
export const SYMBOLS = {
  circle: { path: "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z", paint: "fill" },
  star: { path: "M0 -6L1.5 -2L5.7 -1.9L2.4 .8L3.5 4.9L0 2.5L-3.5 4.9L-2.4 .8L-5.7 -1.9L-1.5 -2Z", paint: "fill" },
  x: { path: "M-6 -6L6 6M-6 6L6 -6", paint: "stroke" },
  "diamond-open": { path: "M0 -5L5 0L0 5L-5 0Z", paint: "stroke" },
};

const DASHES = { solid: [], dash: [9, 5], dot: [2, 4], dashdot: [9, 4, 2, 4], longdash: [15, 5], longdashdot: [15, 4, 2, 4] };

/** The dash of a line in pixels, by its name or as in 8px,2px. */
export const dashOf = (name = "solid") => DASHES[name] ?? name.split(",").map(parseFloat);

/** A text of a figure, which has plotly's few tags, as plain text. */
export function words(text) {
  return text.replaceAll("<br>", " ").replaceAll("&lt;", "<").replaceAll("&amp;", "&");
}

/** A time, which is in UTC: the day at midnight, else hour and minute. */
export function moment(seconds) {
  const [day, time] = new Date(1000 * seconds).toISOString().split("T");
  return time.startsWith("00:00") ? day.slice(5) : time.slice(0, 5);
}

const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
function prefixed(value, digits) {
  const [size, prefix] = PREFIXES.find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  return `${Number((value / size).toPrecision(digits))} ${prefix}`;
}

/** A tick's label, with the digits that tell it from its neighbours. */
export function tickText(value, { type, tickformat = "", ticksuffix = "" }, ticks) {
  if (tickformat === "~s") return prefixed(value, 4) + ticksuffix;
  if (type === "log") return tickformat === "~e" ? value.toExponential().replace("e+", "e") : figure(value, 3);
  const step = Math.abs(ticks[1] - ticks[0]) || Math.abs(value) || 1;
  if (tickformat.endsWith("%")) return `${(100 * value).toFixed(decimals(100 * step))}%`;
  const largest = Math.max(...ticks.map(Math.abs));
  if (largest < 1e5 && step >= 9e-5) return value.toFixed(decimals(step));
  return value === 0 ? "0" : Number(value.toPrecision(4)).toExponential().replace("e+", "e");
}
/** The decimal places of a step, such as two for 0.25. */
function decimals(step) {
  for (let places = 0; places < 12; places++) if (Math.abs(step * 10 ** places - Math.round(step * 10 ** places)) < 1e-6) return places;
  return 12;
}

function valueText(value, { tickformat = "", ticksuffix = "" }) {
  if (tickformat === "~s") return prefixed(value, 4) + ticksuffix;
  return tickformat.endsWith("%") ? `${figure(100 * value)} %` : figure(value, 5);
}

/** The lines under the cursor of a plot: its place on the x axis, and each line's name and value. */
export function hoverText(layout, { axis, traces, columns, points }, plot, index) {
  const x = columns[0][index];
  const at = layout.xaxis.type === "date" ? new Date(1000 * x).toISOString().slice(0, 16).replace("T", " ") : x;
  const head = document.createElement("strong");
  head.textContent = `${words(layout.xaxis.title.text)} ${at}`;
  const rows = traces.flatMap((trace, number) => {
    const near = trace.hoverinfo === "skip" ? null : nearest(plot, columns[0], columns[number + 1], index);
    if (near === null) return [];
    const point = points[number].get(near);
    const row = document.createElement("div");
    row.append(swatch(trace), `${words(trace.name)}: ${valueText(trace.y[point], axis)}`);
    if (!trace.text) return [row];
    const detail = document.createElement("div");
    detail.textContent = trace.text[point].split("<br>").map(words).join(", ");
    return [row, detail];
  });
  return [head, ...rows];
}

/** The index of the nearest value of a line, which a long history may not have at every x. */
function nearest(plot, xs, column, index) {
  for (let away = 0; away < xs.length; away++) {
    const around = [index - away, index + away].filter((each) => each in xs && distance(plot, xs[each], xs[index]) <= NEAR);
    if (!around.length) return null;
    const found = around.find((each) => column[each] !== null && column[each] !== undefined);
    if (found !== undefined) return found;
  }
  return null;
}
const distance = (plot, one, other) => Math.abs(plot.valToPos(one, "x") - plot.valToPos(other, "x"));

/** The sign of a line, an area or a mark in a legend. */
export function swatch({ line = {}, marker, stackgroup }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "-13 -7 26 14");
  svg.setAttribute("aria-hidden", "true");
  const colour = line.color ?? marker?.color;
  if (COLOURS.includes(colour)) svg.setAttribute("class", `s${COLOURS.indexOf(colour)}`);
  else svg.style.color = colour;
  const sign = document.createElementNS(SVG, "path");
  const lined = { path: "M-12 0H12", paint: "stroke" };
  const { path, paint } = marker ? SYMBOLS[marker.symbol ?? "circle"] : stackgroup ? { path: "M-12 -5H12V5H-12Z", paint: "fill" } : lined;
  sign.setAttribute("d", path);
  sign.setAttribute("fill", paint === "fill" ? "currentColor" : "none");
  if (paint === "stroke") sign.setAttribute("stroke", "currentColor");
  sign.setAttribute("stroke-width", marker ? 2 : Math.max(1.5, line.width ?? 2));
  if (!marker && !stackgroup) sign.setAttribute("stroke-dasharray", dashOf(line.dash).join(" "));
  svg.append(sign);
  return svg;
}
