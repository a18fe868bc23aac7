// A new job, or a fork: YAML and form show the same job, and the service checks it as one types.
import { Form } from "./form.js";
import { complain, request, tell } from "./service.js";
import { upload, withData } from "./upload.js";
import { Preflight } from "./preflight.js";

const editor = document.querySelector("#editor");
const yaml = document.querySelector("#yaml");
const verdict = document.querySelector("#verdict");
const submit = document.querySelector("#submit");
const checkButton = document.querySelector("#check");
const workerCheck = new Preflight(document.querySelector("#found"));
const forkOf = editor.dataset.fork ?? null;

let form = null;
let answer = null;
let turn = 0;
let waiting = null;
let checking = Promise.resolve();

/** Ask the service about the text, or about a job that the form made; a newer question wins. */
function check(draft) {
  clearTimeout(waiting);
  waiting = null;
  checking = ask(draft);
  return checking;
}

/** Wait until what is typed now is checked. */
async function settled() {
  if (waiting) check({ text: yaml.value });
  await checking;
}

async function ask(draft) {
  const mine = ++turn;
  workerCheck.forget();
  let fresh;
  try {
    fresh = await request("POST", "/new/check", { ...draft, fork_of: forkOf });
  } catch (error) {
    if (mine !== turn) return;
    say([{ path: "", message: error.message }]);
    allow(false);
    return;
  }
  if (mine !== turn) return checking;
  answer = fresh;
  const { text, job, findings } = answer.checked;
  if (draft.job) yaml.value = text;
  if (job && form && (draft.job || !form.root.contains(document.activeElement))) form.show(job, findings);
  say(findings);
  const changesNothing = forkOf && !findings.length && !Object.keys(answer.changes ?? {}).length;
  allow(!findings.length);
  if (changesNothing) verdict.textContent = "A fork that changes nothing yet: it would repeat the job from there.";
}

function allow(good) {
  submit.disabled = !good;
  if (checkButton) checkButton.disabled = !good;
}

function say(findings) {
  verdict.classList.toggle("good", !findings.length);
  if (!findings.length) {
    verdict.textContent = forkOf ? `Changes ${paths(answer.changes).join(", ")}` : "This job is complete and can be submitted.";
    return;
  }
  const list = document.createElement("ul");
  for (const { path, message, line } of findings) {
    const item = document.createElement("li");
    const place = document.createElement("button");
    place.type = "button";
    place.textContent = [line ? `Line ${line}` : "", path].filter(Boolean).join(", ") || "YAML";
    place.addEventListener("click", () => goTo(line));
    item.append(place, ` ${message}`);
    list.append(item);
  }
  verdict.replaceChildren(list);
}

const paths = (changes, before = "") =>
  Object.entries(changes ?? {}).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value) ? paths(value, `${before}${name}.`) : [`${before}${name}`]);

function goTo(line) {
  if (!line) return yaml.focus();
  const lines = yaml.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
  yaml.focus();
  yaml.setSelectionRange(start, start + lines[line - 1].length);
}

yaml.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => check({ text: yaml.value }), 200);
});

// Tab indents as in an editor; Escape first leaves the field to the keyboard.
let leaves = false;
yaml.addEventListener("keydown", (event) => {
  if (event.key === "Escape") leaves = true;
  else if (event.key === "Tab" && !event.shiftKey && !leaves) {
    event.preventDefault();
    yaml.setRangeText("  ", yaml.selectionStart, yaml.selectionEnd, "end");
    yaml.dispatchEvent(new Event("input"));
  } else if (event.key !== "Tab") leaves = false;
});

document.querySelector("#example")?.addEventListener("change", (event) => {
  yaml.value = document.getElementById(`example-${event.target.value}`).content.textContent;
  check({ text: yaml.value });
});

checkButton?.addEventListener("click", async () => {
  await settled();
  if (checkButton.disabled) return;
  checkButton.disabled = true;
  await workerCheck.run(answer.checked.job);
  checkButton.disabled = submit.disabled;
});

document.querySelector("#data")?.addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file may be chosen again
  if (!file) return;
  try {
    const data = await upload(file);
    tell(`${file.name} is uploaded`);
    await check({ job: withData(answer?.checked.job, data) });
  } catch (error) {
    complain(error);
  }
});

// One key for all attempts of one text: pressed twice, or answered too late, it is one job.
let idempotency = null;

submit.addEventListener("click", async () => {
  await settled();
  if (submit.disabled) return;
  submit.disabled = true;
  const body = JSON.stringify(answer.checked.job);
  if (idempotency?.body !== body) idempotency = { body, key: crypto.randomUUID?.() ?? String(Math.random()) };
  try {
    const job = forkOf
      ? await request("POST", `/v1/jobs/${forkOf}/fork`, { iteration: document.querySelector("#from").valueAsNumber, changes: answer.changes })
      : await request("POST", "/v1/jobs", answer.checked.job, { "Idempotency-Key": idempotency.key });
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    complain(error);
    submit.disabled = false;
  }
});

form = new Form(document.querySelector("#form"), await request("GET", "/new/schema"), (job) => check({ job }), forkOf ? ["problem", "hyperparameters"] : []);
check({ text: yaml.value });
