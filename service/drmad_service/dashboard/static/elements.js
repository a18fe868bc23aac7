// Custom elements that draw themselves from their attributes.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function ago(moment) {
  const seconds = Math.max(0, Math.floor((Date.now() - moment) / 1000));
  const [size, name] = UNITS.find(([size]) => seconds >= size) ?? UNITS.at(-1);
  return `${Math.floor(seconds / size)} ${name}`;
}

class RelativeTime extends HTMLElement {
  static observedAttributes = ["datetime"];
  static shown = new Set();

  connectedCallback() {
    RelativeTime.shown.add(this);
    this.show();
  }
  disconnectedCallback() {
    RelativeTime.shown.delete(this);
  }
  attributeChangedCallback() {
    if (this.isConnected) this.show();
  }
  show() {
    const text = ago(Date.parse(this.getAttribute("datetime")));
    if (this.textContent !== text) this.textContent = text;
  }
}
setInterval(() => RelativeTime.shown.forEach((element) => element.show()), 1000);
customElements.define("relative-time", RelativeTime);

/** Shows a time in the time zone of the browser, with the date unless it is today. */
class LocalTime extends HTMLElement {
  static observedAttributes = ["datetime"];

  attributeChangedCallback() {
    const moment = new Date(this.getAttribute("datetime"));
    const isToday = moment.toDateString() === new Date().toDateString();
    const date = isToday ? {} : { month: "short", day: "numeric" };
    this.textContent = moment.toLocaleString("en-GB", { ...date, hour: "2-digit", minute: "2-digit", second: "2-digit" });
  }
}
customElements.define("local-time", LocalTime);

const WIDTH = 100, HEIGHT = 28, MARGIN = 3;
const SVG = "http://www.w3.org/2000/svg";

class SparkLine extends HTMLElement {
  static observedAttributes = ["points"];

  attributeChangedCallback() {
    const values = this.getAttribute("points").split(" ").map(Number).filter(Number.isFinite);
    if (!values.length) return this.replaceChildren();
    const low = Math.min(...values), high = Math.max(...values);
    const x = (i) => MARGIN + (i / Math.max(1, values.length - 1)) * (WIDTH - 2 * MARGIN);
    const y = (v) => MARGIN + (high > low ? (high - v) / (high - low) : 0.5) * (HEIGHT - 2 * MARGIN);
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", values.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join(""));
    const end = document.createElementNS(SVG, "circle");
    end.setAttribute("cx", x(values.length - 1));
    end.setAttribute("cy", y(values.at(-1)));
    end.setAttribute("r", 2.2);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("aria-hidden", "true");
    svg.append(path, end);
    this.replaceChildren(svg);
  }
}
customElements.define("spark-line", SparkLine);
