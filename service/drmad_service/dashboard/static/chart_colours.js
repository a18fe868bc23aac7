// The colours of figures, which have those of a light page, in the theme of this page.
export const COLOURS = ["#2f74b8", "#c87820", "#892620", "#049c85", "#787ffb", "#165165", "#cc2a50", "#2c29d4"];

const known = new Map();
document.addEventListener("drmad:theme", () => known.clear());

/** The value of a custom property of the theme, such as --line. */
export function themeColour(name) {
  if (!known.has(name)) known.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return known.get(name);
}

const area = (colour) => `rgba(${[1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16)).join(", ")}`;
const AREAS = COLOURS.map(area);
const LIGHT = new RegExp([...COLOURS, ...AREAS.map((start) => start.replace("(", "\\("))].join("|"), "g");

/** A text, such as a colour or the JSON of a figure, with the colours of the theme. */
export function inTheme(text) {
  return text.replace(LIGHT, (found) => {
    const here = (colours) => themeColour(`--c${colours.indexOf(found)}`);
    return found.startsWith("#") ? here(COLOURS) : area(here(AREAS));
  });
}
