// The page of a job: follows its events, sends actions and shows its logs.
import "./charts.js";
import "./learned.js";
import { Follower, hold, refresh } from "./live.js";
import { duration } from "./numbers.js";
import { complain, notify, request, under } from "./service.js";

const page = document.querySelector("#job");
const api = `/v1/jobs/${page.dataset.job}`;
let after = page.dataset.after;

// Events

let chartsDue = null;
function redrawCharts() {
  if (chartsDue) return;
  chartsDue = setTimeout(() => {
    chartsDue = null;
    document.querySelectorAll("job-chart").forEach((chart) => chart.stale());
  }, 600);
}

function changed(event) {
  if (event?.lastEventId) after = event.lastEventId;
  refresh();
  redrawCharts();
  readLogs();
}

let newest = null;
function progressed(event) {
  newest = { at: performance.now(), progress: JSON.parse(event.data).data };
  show(newest.progress);
}

function show({ iteration, iterations, phase, step, steps, remaining_s: left }) {
  document.querySelector("#iteration").textContent = iteration;
  const bar = document.querySelector("#bar");
  bar.max = iterations;
  bar.value = iteration;
  const stepsBar = document.querySelector("#steps");
  stepsBar.max = steps || 1;
  stepsBar.value = step;
  document.querySelector("#phase").textContent = phase ? `${phase}, step ${step} of ${steps}` : "";
  const remaining = document.querySelector("#remaining");
  if (remaining) remaining.textContent = duration(left);
}

let follower;
function follow() {
  follower = new Follower(() => `${api}/events?after=${after}`, {
    progress: progressed,
    trial: changed,
    start: changed,
    iteration: changed,
    arrival: changed,
    rollback: changed,
    validation: changed,
    status: changed,
    warning: changed,
    webhook: changed,
    reset: changed,
    back: () => changed(),
  });
}

const isOver = () => document.querySelector("#facts").dataset.terminal === "true";
document.addEventListener("drmad:refreshed", ({ detail }) => {
  if (newest?.at > detail.asked) show(newest.progress); // the page may be older than the last progress event
  if (isOver() && !follower.over) follower.end("ended");
  else if (!isOver() && follower.over) follow(); // extended
  watchValidation();
});

// No events follow the end of a job, which may still be validated and retrained.
let validationDue = null;
function watchValidation() {
  if (validationDue || !isOver() || !document.querySelector("[data-unfinished]")) return;
  validationDue = setTimeout(() => {
    validationDue = null;
    refresh();
  }, 2000);
}
watchValidation();
follow();
if (isOver()) follower.end("ended");

// Actions

async function act(action, body) {
  try {
    if (action === "delete") {
      hold(true);
      await request("DELETE", api);
      location.assign(under("/"));
      return;
    }
    await request("POST", `${api}/${action}`, body);
    notify({ pause: "Pause requested", resume: "Resumed", extend: "Extended", validations: "Validation requested", retrainings: "Retraining requested" }[action] ?? "Cancellation requested");
    changed();
  } catch (error) {
    hold(false);
    complain(error);
    refresh();
  }
}

page.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.dialog) document.querySelector(`#dialog-${button.dataset.dialog}`).showModal();
  else if (["validations", "retrainings"].includes(button?.dataset.action)) act(button.dataset.action, {});
  else if (button?.dataset.action) act(button.dataset.action);
});

/** Changes the labels of the job: what is left out stays as it is. */
async function label(changes) {
  try {
    await request("PATCH", api, changes);
    notify("archived" in changes ? (changes.archived ? "Archived" : "Restored") : "Saved");
    refresh();
  } catch (error) {
    complain(error);
  }
}

/** The tags of a text with one a line, and null for those that it no longer has. */
function tagsOf(text, before) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const tags = Object.fromEntries(lines.map((line) => {
    const [name, ...value] = line.split(":");
    return [name.trim(), value.join(":").trim()];
  }));
  const gone = Object.keys(tagsIn(before)).filter((name) => !(name in tags));
  return { ...tags, ...Object.fromEntries(gone.map((name) => [name, null])) };
}
const tagsIn = (text) => (text === null ? {} : tagsOf(text, null));

page.addEventListener("click", ({ target }) => {
  const changes = target.closest("button")?.dataset.label;
  if (changes) label(JSON.parse(changes));
});

// Without the rows of lowest weight
page.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-retrain]")) return;
  event.preventDefault();
  act("retrainings", { drop_lowest: `${event.target.elements.share.valueAsNumber}%` });
});

for (const form of document.querySelectorAll("dialog form")) {
  form.querySelector("[data-close]").addEventListener("click", () => form.parentElement.close());
  form.addEventListener("submit", () => {
    const { action, elements } = { action: form.dataset.action, elements: form.elements };
    if (action === "labels") {
      const [name, note, tags] = [elements.name, elements.note, elements.tags].map((field) => field.value);
      label({ name, note: note || null, tags: tagsOf(tags, elements.tags.defaultValue) });
      elements.tags.defaultValue = tags;
      return;
    }
    act(action, action === "extend" ? { iterations: form.elements.iterations.valueAsNumber } : undefined);
  });
}

// Formats of the spec

const tabs = [...document.querySelectorAll('[role="tab"]')];
function choose(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs.at((index + step) % tabs.length);
    choose(next);
    next.focus();
  });
});

// Logs

const logs = document.querySelector("#logs");
const replica = document.querySelector("#replica");
const MAX_LOG_LINES = 5000;
let lastLine = null;
let reading = false;

async function readLogs() {
  if (reading) return;
  reading = true;
  try {
    let more = true;
    while (more) {
      const asked = new URLSearchParams({ limit: 500 });
      if (lastLine) asked.set("after", lastLine);
      if (replica.value) asked.set("replica", replica.value);
      const part = await request("GET", `${logs.dataset.src}?${asked}`);
      append(part.data);
      lastLine = part.data.at(-1)?.id ?? lastLine;
      more = part.has_more;
    }
    if (!logs.childElementCount) logs.textContent = "No log lines. Lines that the replicas print appear here.";
  } catch {
    if (!logs.childElementCount) logs.textContent = "The logs did not load. The page retries at the next event.";
  }
  reading = false;
}

function append(lines) {
  if (!lines.length) return;
  if (!logs.childElementCount) logs.textContent = "";
  const isAtEnd = logs.scrollHeight - logs.scrollTop - logs.clientHeight < 40;
  for (const line of lines) {
    const who = document.createElement("b");
    who.textContent = `${line.source}  `;
    const row = document.createElement("div");
    row.append(who, line.text);
    logs.append(row);
  }
  while (logs.childElementCount > MAX_LOG_LINES) logs.firstChild.remove();
  if (isAtEnd) logs.scrollTop = logs.scrollHeight;
}

replica.addEventListener("change", () => {
  logs.replaceChildren();
  lastLine = null;
  readLogs();
});
readLogs();
