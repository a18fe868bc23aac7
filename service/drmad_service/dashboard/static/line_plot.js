// How uPlot draws one panel of a figure: its scales, ticks, lines, bands and marks.
import { inTheme, themeColour } from "./chart_colours.js";
import { SYMBOLS, dashOf, moment, tickText } from "./line_words.js";
import uPlot from "./vendor/uplot.esm.min.js";

const GUTTER = 62; // pixels left of each panel, so that the panels of a chart lie below each other
const FONT = "11px Inter, sans-serif";
const WHOLE_STEPS = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
const LOG_TICKS = 5;

const linear = uPlot.paths.linear();
const stepped = uPlot.paths.stepped({ align: 1 });

/**
 * The options of uPlot for the panel `index` of a view. What changes with the data, such as the ends of
 * the axes, is read from the view whenever uPlot draws.
 */
export function plotOptions(view, index, isLast) {
  const panel = () => view.panels[index];
  const { axis, traces } = panel();
  const isDate = view.figure.layout.xaxis.type === "date";
  const isLog = axis.type === "log";
  const grid = { stroke: () => themeColour("--line"), width: 1 };
  const drawn = { font: FONT, stroke: () => themeColour("--muted"), grid, ticks: { show: false } };
  return {
    legend: { show: false },
    cursor: {
      y: false,
      move: (plot, left, top) => (left < 0 ? [left, top] : [plot.valToPos(plot.data[0][plot.posToIdx(left)], "x"), top]),
      points: { show: false },
      drag: { setScale: false },
      bind: { dblclick: () => () => view.zoomTo(null) },
    },
    padding: [6, 14, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(1000 * seconds), "Etc/UTC"),
    scales: {
      x: { time: isDate, range: () => view.shownX },
      y: { distr: isLog ? 3 : 1, range: (plot) => valueRange(plot, panel(), Boolean(view.zoom)) },
    },
    axes: [
      {
        ...drawn,
        size: isLast ? 22 : 4,
        gap: 4,
        space: isDate ? 70 : 48,
        ...(isDate ? {} : { incrs: WHOLE_STEPS }),
        values: (_, splits) => splits.map((split) => (isLast ? (isDate ? moment(split) : String(split)) : "")),
      },
      {
        ...drawn,
        size: GUTTER,
        gap: 6,
        space: 28,
        ...(isLog ? { splits: (_, __, low, high) => logTicks(low, high), filter: (_, splits) => splits } : {}),
        values: (_, splits) => splits.map((split) => tickText(split, axis, splits)),
      },
    ],
    series: [{}, ...traces.map(seriesOf)],
    bands: bandsOf(traces),
    hooks: {
      draw: [(plot) => drawMarks(plot, panel().traces)],
      setCursor: [(plot) => view.pointed(plot)],
      setSelect: [(plot) => {
        const { left, width } = plot.select;
        if (width > 3) view.zoomTo([plot.posToVal(left, "x"), plot.posToVal(left + width, "x")]);
        plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
    },
  };
}

function seriesOf(trace, number) {
  const { line = {}, marker, mode, opacity = 1, stackgroup, fillcolor } = trace;
  const isMarks = mode === "markers" && marker;
  const colour = () => inTheme(line.color ?? marker?.color ?? themeColour("--muted"));
  return {
    alpha: opacity,
    stroke: colour,
    width: line.width ?? 2,
    dash: dashOf(line.dash),
    paths: isMarks ? () => null : line.shape === "hv" ? stepped : linear,
    points: { show: false, filter: (plot, at) => (isMarks || line.width === 0 ? null : alone(plot.data[at])), size: 7, fill: colour },
    ...(stackgroup ? { fill: number === 0 ? () => inTheme(fillcolor) : undefined, fillTo: 0 } : {}),
  };
}

/** The places of values between gaps, which no line reaches; null without one. */
function alone(column) {
  const places = column.flatMap((value, index) => (value === undefined ? [] : [index]));
  const isGap = (number) => (column[places[number]] ?? null) === null;
  const found = places.filter((_, number) => !isGap(number) && isGap(number - 1) && isGap(number + 1));
  return found.length ? found : null;
}

/** Areas down to the line before: bands of intervals, and the layers of a stack. */
function bandsOf(traces) {
  return traces.flatMap(({ fill, stackgroup, fillcolor }, number) => {
    const isArea = fill === "tonexty" || (stackgroup && number > 0);
    return isArea ? [{ series: [number + 1, number], fill: () => inTheme(fillcolor) }] : [];
  });
}

function drawMarks({ ctx, bbox, scales, valToPos }, traces) {
  for (const { mode, marker, x, y } of traces) {
    if (mode !== "markers" || !marker) continue;
    const symbol = SYMBOLS[marker.symbol ?? "circle"];
    const path = new Path2D(symbol.path);
    const size = (window.devicePixelRatio * (marker.size ?? 7)) / 10;
    x.forEach((at, number) => {
      if (y[number] === null || at < scales.x.min || at > scales.x.max) return;
      const top = valToPos(y[number], "y", true);
      if (top < bbox.top || top > bbox.top + bbox.height) return;
      ctx.save();
      ctx.translate(valToPos(at, "x", true), top);
      ctx.scale(size, size);
      ctx.setLineDash([]);
      ctx.lineWidth = 2;
      ctx[`${symbol.paint}Style`] = inTheme(marker.color);
      ctx[symbol.paint](path);
      ctx.restore();
    });
  }
}

/** The range of the values: that of the figure, or on a part of the x axis what its lines need. */
function valueRange(plot, { axis, traces, columns }, isZoomed) {
  if (axis.range && !isZoomed) return axis.range;
  const [first, last] = plot.series[0].idxs;
  let low = Infinity, high = -Infinity;
  traces.forEach(({ hoverinfo }, number) => {
    if (hoverinfo === "skip") return; // a band alone is wide where it has few meta-iterations
    const column = columns[number + 1];
    for (let index = first; index <= last; index++) {
      const value = column[index];
      if (value === null || value === undefined) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  });
  if (low > high) return axis.type === "log" ? [0.1, 1] : [0, 1];
  if (axis.type === "log") {
    const room = (high / low) ** 0.05 || 1;
    return high > low ? [low / room, high * room] : [low / 2, high * 2];
  }
  const room = 0.06 * (high - low) || 0.1 * Math.abs(high) || 1;
  return [axis.rangemode === "tozero" ? 0 : low - room, high + room];
}

/** Powers of ten, or more digits of each decade where these are few; within one digit the ends. */
function logTicks(low, high) {
  for (const digits of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of digits) {
        const tick = Number(`${digit}e${power}`);
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    const every = Math.ceil(ticks.length / LOG_TICKS);
    if (ticks.length >= 3) return ticks.filter((_, index) => index % every === 0);
  }
  return [low, high];
}
