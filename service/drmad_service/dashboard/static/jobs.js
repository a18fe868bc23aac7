// The list of jobs: live updates, filters applied while typing, and the selection to compare.
import { Follower, refresh } from "./live.js";

new Follower(() => "/live", { change: refresh, back: refresh });

const filters = document.querySelector("#filters");
let typing;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const asked = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
    const query = asked.toString();
    history.replaceState(null, "", query ? `/?${query}` : "/");
    refresh();
  }, 250);
});

const button = document.querySelector("#compare-button");
function count() {
  const chosen = document.querySelectorAll('#jobs input[name="job"]:checked').length;
  button.disabled = chosen < 2 || chosen > 8;
  button.textContent = chosen ? `Compare ${chosen}` : "Compare";
}
document.querySelector("#jobs").addEventListener("change", count);
document.addEventListener("drmad:refreshed", count);
count();
