// Runs before anything is painted, so that no page flashes in the other colours.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("drmad-theme");
    document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
    document.dispatchEvent(new Event("drmad:theme"));
  };
  dark.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab has chosen
  document.addEventListener("drmad:theme-chosen", apply);
  apply();
})();
