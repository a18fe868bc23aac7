// The editor of a new job or a fork. YAML and form show the same job; the service validates each edit.
import { Form } from "./form.js";
import { complain, notify, request, under } from "./service.js";
import { ignoring } from "./code_archive.js";
import { chosen, dropped, uploaded, withCode } from "./own_code.js";
import { upload, withData } from "./upload.js";
import { Preflight } from "./preflight.js";
import "./yaml_editor.js";
import { JobSchema } from "./yaml_schema.js";

const editor = document.querySelector("#editor");
const yaml = document.querySelector("yaml-editor");
const verdict = document.querySelector("#verdict");
const submit = document.querySelector("#submit");
const preflightButton = document.querySelector("#check");
const preflight = new Preflight(document.querySelector("#found"));
const forkOf = editor.dataset.fork ?? null;

let form = null;
let answer = null;
let described = null; // the last job that the text described
const schema = await request("GET", "/new/schema").catch((error) => {
  verdict.textContent = `The editor did not load: ${error.message} Reload the page.`;
  throw error;
});
const original = document.querySelector("#yaml").value;
yaml.edit(document.querySelector("#yaml"), new JobSchema(schema), () => described);
let turn = 0;
let waiting = null;
let validating = Promise.resolve();

/** Validates the text or the fields of the form; a later call supersedes an earlier one. */
function validate(draft) {
  clearTimeout(waiting);
  waiting = null;
  validating = ask(draft);
  return validating;
}

/** Waits until the current text is validated. */
async function settled() {
  if (waiting) validate({ text: yaml.value });
  await validating;
}

async function ask(draft) {
  const mine = ++turn;
  preflight.forget();
  let fresh;
  try {
    fresh = await request("POST", "/new/check", { ...draft, fork_of: forkOf });
  } catch (error) {
    if (mine !== turn) return;
    say([{ path: "", message: error.message }]);
    allow(false);
    return;
  }
  if (mine !== turn) return validating;
  answer = fresh;
  const { text, job, findings } = answer.draft;
  described = job ?? described;
  if (draft.job) write(text);
  if (job && form && (draft.job || !form.root.contains(document.activeElement))) form.show(job, findings);
  say(findings);
  const changesNothing = forkOf && !findings.length && !Object.keys(answer.changes ?? {}).length;
  allow(!findings.length);
  if (changesNothing) verdict.textContent = "This fork changes nothing yet. It would repeat the job from there.";
}

// Undo and drafts: a draft outlives the page.

const DRAFT = `drmad-draft:${location.pathname}${location.search}`;
const undo = document.querySelector("#undo");
const startAgain = document.querySelector("#start-again");

function keep() {
  if (yaml.value === original) localStorage.removeItem(DRAFT);
  else localStorage.setItem(DRAFT, yaml.value);
  undo.disabled = !yaml.canUndo;
  startAgain.hidden = yaml.value === original;
}

/** Replaces the text, which Undo brings back. */
function write(text) {
  if (text === yaml.value) return;
  yaml.value = text;
  keep();
}
undo.addEventListener("click", () => {
  yaml.undo();
  keep();
  validate({ text: yaml.value });
});
startAgain.addEventListener("click", () => {
  write(original);
  validate({ text: yaml.value });
});
const draft = localStorage.getItem(DRAFT);
if (draft !== null && draft !== original) {
  yaml.value = draft;
  notify("Your draft is restored. Start again discards it.");
}
keep();

function allow(good) {
  submit.disabled = !good;
  if (preflightButton) preflightButton.disabled = !good;
}

function say(findings) {
  yaml.mark(findings);
  verdict.classList.toggle("good", !findings.length);
  if (!findings.length) {
    verdict.textContent = forkOf ? `Changed fields: ${paths(answer.changes).join(", ")}` : "This job is valid and can be submitted.";
    return;
  }
  const list = document.createElement("ul");
  for (const { path, message, line } of findings) {
    const item = document.createElement("li");
    const place = document.createElement("button");
    place.type = "button";
    place.textContent = [line ? `Line ${line}` : "", path].filter(Boolean).join(", ") || "YAML";
    place.addEventListener("click", () => yaml.goTo(line));
    item.append(place, ` ${message}`);
    list.append(item);
  }
  verdict.replaceChildren(list);
}

const paths = (changes, before = "") =>
  Object.entries(changes ?? {}).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value) ? paths(value, `${before}${name}.`) : [`${before}${name}`]);

yaml.addEventListener("typed", () => {
  keep();
  clearTimeout(waiting);
  waiting = setTimeout(() => validate({ text: yaml.value }), 200);
});

document.querySelector("#example")?.addEventListener("change", (event) => {
  write(document.getElementById(`example-${event.target.value}`).content.textContent);
  validate({ text: yaml.value });
});

preflightButton?.addEventListener("click", async () => {
  await settled();
  if (preflightButton.disabled) return;
  preflightButton.disabled = true;
  await preflight.run(answer.draft.job);
  preflightButton.disabled = submit.disabled;
});

document.querySelector("#data")?.addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  target.value = ""; // allows the user to select the same file again
  if (!file) return;
  try {
    const data = await upload(file);
    notify(`Uploaded ${file.name}`);
    await validate({ job: withData(answer?.draft.job, data, /\.(csv|parquet)$/i.test(file.name)), text: yaml.value });
  } catch (error) {
    complain(error);
  }
});

// Own code: a folder or a zip archive, chosen or dropped on the text

const never = editor.dataset.never.split("\n");
const isNever = ignoring(never);
const codeReport = document.querySelector("#code");
const panel = yaml.closest("section");

async function takeCode(read) {
  try {
    const files = await read();
    if (!files) throw new Error("Expected a folder or a zip archive of code.");
    const { code, entrypoints: found, said } = await uploaded(files, never);
    codeReport.hidden = false;
    codeReport.querySelector("p").textContent = found.length ? said : `${said} No function returns a Problem: name yours in problem.entrypoint, as module:function.`;
    const select = codeReport.querySelector("select");
    select.replaceChildren(...found.map((name) => new Option(name)));
    select.parentElement.hidden = found.length < 2;
    const job = withCode(answer?.draft.job, code, found);
    select.value = job.problem.entrypoint;
    await validate({ job, text: yaml.value });
  } catch (error) {
    complain(error);
  }
}

if (!forkOf) {
  for (const input of document.querySelectorAll("#code-folder, #code-zip"))
    input.addEventListener("change", async () => {
      document.querySelector("#code-menu").open = false;
      if (input.files.length) await takeCode(() => chosen(input, isNever));
      input.value = "";
    });
  codeReport.querySelector("select").addEventListener("change", ({ target }) => {
    const { problem, ...job } = answer.draft.job;
    validate({ job: { ...job, problem: { ...problem, entrypoint: target.value } }, text: yaml.value });
  });
  // In the capture phase, before the editor takes the file for text.
  panel.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    panel.classList.add("dropping");
  }, true);
  panel.addEventListener("dragleave", ({ relatedTarget }) => panel.contains(relatedTarget) || panel.classList.remove("dropping"));
  panel.addEventListener("drop", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    panel.classList.remove("dropping");
    takeCode(() => dropped(event.dataTransfer, isNever));
  }, true);
}

// All attempts to submit one text share a key, so that a repeated request creates one job.
let idempotency = null;

submit.addEventListener("click", async () => {
  await settled();
  if (submit.disabled) return;
  submit.disabled = true;
  const body = JSON.stringify(answer.draft.job);
  if (idempotency?.body !== body) idempotency = { body, key: crypto.randomUUID?.() ?? String(Math.random()) };
  try {
    const job = forkOf
      ? await request("POST", `/v1/jobs/${forkOf}/fork`, { iteration: document.querySelector("#from").valueAsNumber, changes: answer.changes })
      : await request("POST", "/v1/jobs", answer.draft.job, { "Idempotency-Key": idempotency.key });
    localStorage.removeItem(DRAFT);
    location.assign(under(`/jobs/${job.id}`));
  } catch (error) {
    complain(error);
    submit.disabled = false;
  }
});

form = new Form(document.querySelector("#form"), schema, (job) => validate({ job, text: yaml.value }), forkOf ? ["problem", "hyperparameters"] : []);
validate({ text: yaml.value });
