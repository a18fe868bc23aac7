// Behaviour of every page: colour theme, sign-out, copy buttons, menus and custom elements.
import "./elements.js";
import { addMetrics } from "./metric_columns.js";
import { complain, notify, request, under } from "./service.js";

const THEMES = ["system", "light", "dark"];

document.querySelector("#theme").addEventListener("click", () => {
  const now = localStorage.getItem("drmad-theme") ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "system") localStorage.removeItem("drmad-theme");
  else localStorage.setItem("drmad-theme", next);
  document.dispatchEvent(new Event("drmad:theme-chosen"));
  notify(`Colour theme: ${next}`);
});

document.querySelector("#sign-out")?.addEventListener("click", async () => {
  try {
    await request("POST", "/sign-out");
    location.assign(under("/sign-in"));
  } catch (error) {
    complain(error);
  }
});

document.querySelectorAll("[data-list]").forEach(addMetrics);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-of]");
  if (!button) return;
  const text = button.dataset.copy ?? document.querySelector(button.dataset.copyOf).textContent;
  try {
    await navigator.clipboard.writeText(text);
    notify("Copied");
  } catch {
    complain(new Error("The browser blocked copying. Select the text and copy it."));
  }
});

// A click outside a menu closes it.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
