// The list of jobs: live updates, filters applied while typing, a selection that pages and filters keep,
// actions on it, columns and keys.
import { Follower, refresh } from "./live.js";
import { keepMetrics } from "./metric_columns.js";
import { complain, notify, request, under } from "./service.js";

new Follower(() => "/live", { change: refresh, back: refresh });

// Filters

const filters = document.querySelector("#filters");
let typing;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const asked = new URLSearchParams([...new FormData(filters)].filter(([, value]) => value));
    const query = asked.toString();
    history.replaceState(null, "", under(query ? `/?${query}` : "/"));
    refresh();
  }, 250);
});

// Selection

// What is done to all selected jobs: the words of the dialog, and the request for one job.
const jobs = (count) => `${count} ${count === 1 ? "job" : "jobs"}`;
const OWN = "Only for jobs that your key may change";
const BULK = {
  cancel: {
    title: "Cancel", button: "Cancel jobs", said: (count) => `Cancellation of ${jobs(count)} requested`,
    text: "They stop now and keep their committed meta-iterations.", needs: `${OWN} and that have not ended.`,
    send: (job) => request("POST", `/v1/jobs/${job}/cancel`),
  },
  delete: {
    title: "Delete", button: "Delete jobs", said: (count) => `Deleted ${jobs(count)}`,
    text: "This deletes their history, hyperparameters and models permanently.", needs: `${OWN} and that have ended.`,
    send: (job) => request("DELETE", `/v1/jobs/${job}`),
  },
  archive: {
    title: "Archive", button: "Archive jobs", said: (count) => `Archived ${jobs(count)}`,
    text: "Lists leave archived jobs out; their pages and results stay.", needs: `${OWN} and that have ended.`,
    send: (job) => request("PATCH", `/v1/jobs/${job}`, { archived: true }),
  },
  restore: {
    title: "Restore", button: "Restore jobs", said: (count) => `Restored ${jobs(count)}`,
    text: "Lists have them again.", needs: `${OWN} and that are archived.`,
    send: (job) => request("PATCH", `/v1/jobs/${job}`, { archived: false }),
  },
  tag: {
    title: "Tag", button: "Tag jobs", said: (count) => `Tagged ${jobs(count)}`, keeps: true, needs: `${OWN}.`,
    text: "A tag with the same name is replaced. Filters and the search find jobs by their tags.",
    send: (job) => request("PATCH", `/v1/jobs/${job}`, { tags: tag() }),
  },
};

const MOST_COMPARED = 8;
const STORED = "drmad-selected-jobs";
// Of each selected job what this key may do to it: by its owner and its state, as its row said last.
const chosen = new Map(JSON.parse(sessionStorage.getItem(STORED) ?? "[]"));
const bar = document.querySelector("#selection");
const compare = document.querySelector("#compare-button");
const list = document.querySelector("#jobs");

// Groups: the rows of a group are folded into one until the reader opens it.
const OPENED = "drmad-opened-groups";
const opened = new Set(JSON.parse(sessionStorage.getItem(OPENED) ?? "[]"));
list.addEventListener("click", ({ target }) => {
  const name = target.dataset.group;
  if (name === undefined) return;
  opened[opened.has(name) ? "delete" : "add"](name);
  sessionStorage.setItem(OPENED, JSON.stringify([...opened]));
  fold();
});
function fold() {
  for (const button of list.querySelectorAll("[data-group]")) button.setAttribute("aria-expanded", opened.has(button.dataset.group));
  for (const row of list.querySelectorAll("[data-member]")) row.hidden = !opened.has(row.dataset.member);
}

function show() {
  fold();
  for (const box of list.querySelectorAll('input[name="job"]')) {
    box.checked = chosen.has(box.value);
    if (box.checked) chosen.set(box.value, box.dataset.may);
  }
  sessionStorage.setItem(STORED, JSON.stringify([...chosen]));
  compare.disabled = chosen.size < 2 || chosen.size > MOST_COMPARED;
  compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
  bar.hidden = !chosen.size;
  bar.querySelector("#selected").textContent = `${chosen.size} selected`;
  for (const button of bar.querySelectorAll("[data-bulk]")) {
    const { title } = BULK[button.dataset.bulk];
    const able = allowing(button.dataset.bulk).length;
    button.disabled = !able;
    button.textContent = able && able < chosen.size ? `${title} ${able} of ${chosen.size}` : `${title} selected`;
    button.title = able < chosen.size ? BULK[button.dataset.bulk].needs : "";
  }
}
const allowing = (action) => [...chosen].filter(([, may]) => may.split(" ").includes(action)).map(([job]) => job);
list.addEventListener("change", ({ target }) => {
  if (target.name !== "job") return;
  if (target.checked) chosen.set(target.value, target.dataset.may);
  else chosen.delete(target.value);
  show();
});
document.addEventListener("drmad:refreshed", show);
compare.addEventListener("click", () => location.assign(under(`/compare?${[...chosen.keys()].map((job) => `job=${job}`).join("&")}`)));
bar.querySelector("#clear").addEventListener("click", () => {
  chosen.clear();
  show();
});

const dialog = document.querySelector("#dialog-bulk");
const tagField = dialog.querySelector("[name=tag]");
function tag() {
  const [name, ...value] = tagField.value.split(":");
  return { [name.trim()]: value.join(":").trim() };
}
let bulk = null;
let concerned = [];
bar.addEventListener("click", ({ target }) => {
  if (!target.dataset.bulk) return;
  bulk = BULK[target.dataset.bulk];
  concerned = allowing(target.dataset.bulk);
  const others = chosen.size - concerned.length;
  dialog.querySelector("h2").textContent = `${bulk.title} ${jobs(concerned.length)}?`;
  dialog.querySelector("p").textContent = others ? `${bulk.text} ${jobs(others)} of the selection ${others === 1 ? "stays" : "stay"} as ${others === 1 ? "it is" : "they are"}. ${bulk.needs}` : bulk.text;
  const isTag = bulk === BULK.tag;
  dialog.querySelector("#bulk-tag").hidden = !isTag;
  tagField.required = isTag;
  const go = dialog.querySelector("#bulk-go");
  go.textContent = bulk.button;
  go.className = ["tag", "restore"].includes(target.dataset.bulk) ? "primary" : "danger";
  dialog.showModal();
});
dialog.querySelector("#bulk-keep").addEventListener("click", () => dialog.close());
dialog.querySelector("form").addEventListener("submit", async () => {
  let done = 0;
  const refused = [];
  for (const job of concerned) {
    try {
      await bulk.send(job);
      if (!bulk.keeps) chosen.delete(job);
      done += 1;
    } catch (error) {
      refused.push(`${job.slice(-6)}: ${error.message}`);
    }
  }
  show();
  if (done) notify(bulk.said(done));
  if (refused.length) complain(new Error(refused.join("; ")));
  refresh();
});
show();

// Columns: those of metrics are in the address, and kept for links to the list; which others are hidden is
// kept in this browser

const HIDDEN = "drmad-hidden-columns";
const columns = document.querySelector("#columns");
const page = document.querySelector("#content");
const hidden = new Set(JSON.parse(localStorage.getItem(HIDDEN) ?? "[]"));
for (const box of columns.querySelectorAll("[data-href]")) box.addEventListener("change", () => {
  keepMetrics(box.dataset.href);
  location.assign(box.dataset.href);
});
if (new URLSearchParams(location.search).has("metric")) keepMetrics(location.href);
for (const box of columns.querySelectorAll("[value]")) {
  box.checked = !hidden.has(box.value);
  box.addEventListener("change", () => {
    hidden[box.checked ? "delete" : "add"](box.value);
    localStorage.setItem(HIDDEN, JSON.stringify([...hidden]));
    page.dataset.hide = [...hidden].join(" ");
  });
}
page.dataset.hide = [...hidden].join(" ");

// Keys

const help = document.querySelector("#dialog-keys");
help.querySelector("button").addEventListener("click", () => help.close());
document.querySelector("#keys").addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (target.matches("input:not([type=checkbox]), textarea, select")) {
    if (key === "Escape") target.blur();
    return;
  }
  const names = [...list.querySelectorAll("tr:not([hidden]) a.name")];
  const row = names.findIndex((name) => name.closest("tr").contains(document.activeElement));
  if (key === "j" || key === "k") names[key === "j" ? Math.min(row + 1, names.length - 1) : Math.max(row - 1, 0)]?.focus();
  else if (key === "x" && row >= 0) names[row].closest("tr").querySelector('input[name="job"]').click();
  else if (key === "/") filters.elements.q.focus();
  else if (key === "?") help.showModal();
  else return;
  event.preventDefault();
});
