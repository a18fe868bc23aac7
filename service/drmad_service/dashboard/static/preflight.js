// Requests the preflight of a job that is not submitted and shows the report.
import { duration, figure, size } from "./numbers.js";
import { request } from "./service.js";

const MAX_PREFLIGHT_MS = 300_000; // the service reports earlier that no worker is free

export class Preflight {
  /** @param place the element that shows the report */
  constructor(place) {
    this.place = place;
    this.turn = 0;
  }

  /** Hides the report, because the job has changed. */
  forget() {
    this.turn += 1;
    this.place.hidden = true;
  }

  async run(job) {
    const mine = ++this.turn;
    this.show("wait", "A worker is running the preflight of this job …");
    let kind = "good", content;
    try {
      const report = await request("POST", "/v1/jobs?validate_only=true&deep=true", job, {}, MAX_PREFLIGHT_MS);
      content = found(report, job.preflight?.override ?? []);
    } catch (error) {
      [kind, content] = ["failed", [error.message, ...(error.problem?.errors ?? []).map((e) => `${e.path}: ${e.message}`)].join("\n")];
    }
    if (mine === this.turn) this.show(kind, content);
  }

  show(kind, content) {
    this.place.hidden = false;
    this.place.className = `found ${kind}`;
    this.place.replaceChildren(...[content].flat());
  }
}

const shape = (sizes) => (sizes.length ? sizes.map((count) => count.toLocaleString("en")).join(" × ") : "1");

function found(report, override) {
  const failed = report.proofs.filter((proof) => proof.result === "failed");
  const refused = failed.filter((proof) => !override.includes(proof.name));
  const diverged = report.failure?.code === "training_diverged";
  const result = refused.length ? "Proofs failed; the job would not start"
    : diverged && !override.includes("training") ? "Training diverges; the job would not start"
    : failed.length ? "Proofs failed and are overridden"
    : report.failure ? "The steps have no result" : "No problems found";
  const cosines = Object.entries(report.fidelity).map(([method, cosine]) => `${method} ${cosine === null ? "diverged" : figure(cosine, 3)}`);
  const figures = report.failure ? [
    ["Preflight run", `${report.steps} steps with ${report.method}: ${report.failure.message}`],
  ] : [
    ["Estimated duration of the job", `about ${duration(report.job_seconds)} on this worker`],
    ["Memory per replica", `at most ${size(report.memory_bytes)}`],
    ["Preflight run", `${report.steps} steps with ${report.method} in ${duration(report.seconds)}, validation loss ${figure(report.validation_loss)}`],
    ["Cosine to the exact hypergradient", cosines.join(", ") || "not measured: the method is exact"],
    ...(report.agreement == null ? [] : [["Agreement of two draws", `${figure(report.agreement, 3)}, the ceiling of every fidelity`]]),
  ];
  const hyperparameters = Object.entries(report.hyperparameters).map(([name, sizes]) => `${name} (${shape(sizes)})`);
  const limits = report.limits.map((limit) => ["Limit of the method", limit]);
  const rows = [
    ["Result", result], ...figures, ...limits,
    ["Hyperparameters", hyperparameters.join(", ")], ["Initial weights", report.weights],
    ...(report.model_bytes == null ? [] : [["Model", report.model_refusal || `${size(report.model_bytes)} are kept`]]),
  ];
  const list = document.createElement("dl");
  for (const [name, text] of rows) {
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = text;
    list.append(term, value);
  }
  return report.proofs.length ? [list, table(report.proofs, override)] : [list];
}

function table(proofs, override) {
  const table = document.createElement("table");
  table.className = "proofs";
  table.setAttribute("aria-label", "Preflight checks");
  const head = table.createTHead().insertRow();
  for (const name of ["Proof", "Result", "Where", "Finding", "Remedy", "Duration"])
    head.append(Object.assign(document.createElement("th"), { textContent: name }));
  const body = table.createTBody();
  for (const proof of proofs) {
    const isOverridden = proof.result === "failed" && override.includes(proof.name);
    const row = body.insertRow();
    row.insertCell().textContent = proof.name.replaceAll("_", " ");
    row.insertCell().append(Object.assign(document.createElement("span"), {
      className: `chip ${isOverridden ? "overridden" : proof.result}`,
      textContent: isOverridden ? "failed, overridden" : proof.result,
    }));
    for (const [text, kind] of [[proof.where, "mono"], [proof.detail, ""], [proof.remedy, ""], [duration(proof.seconds), "number"]])
      Object.assign(row.insertCell(), { textContent: text ?? "", className: kind });
  }
  return table;
}
