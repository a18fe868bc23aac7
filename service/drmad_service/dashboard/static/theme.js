// Runs before the first paint, so that no page flashes in the wrong colours.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("drmad-theme");
    document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
    document.dispatchEvent(new Event("drmad:theme"));
  };
  dark.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab changed the theme
  document.addEventListener("drmad:theme-chosen", apply);
  apply();
})();
