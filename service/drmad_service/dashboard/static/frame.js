// What every page has: the theme, signing out, copying, tables of time and small curves.
import "./elements.js";
import { complain, request, tell } from "./service.js";

const THEMES = ["system", "light", "dark"];

document.querySelector("#theme").addEventListener("click", () => {
  const now = localStorage.getItem("drmad-theme") ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  if (next === "system") localStorage.removeItem("drmad-theme");
  else localStorage.setItem("drmad-theme", next);
  document.dispatchEvent(new Event("drmad:theme-chosen"));
  tell(next === "system" ? "Colours as the system has them" : `Colours: ${next}`);
});

document.querySelector("#sign-out")?.addEventListener("click", async () => {
  try {
    await request("POST", "/sign-out");
    location.assign("/sign-in");
  } catch (error) {
    complain(error);
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-of]");
  if (!button) return;
  const text = button.dataset.copy ?? document.querySelector(button.dataset.copyOf).textContent;
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied");
  } catch {
    complain(new Error("The browser did not allow to copy; select the text instead"));
  }
});

// A menu closes when one looks elsewhere.
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
