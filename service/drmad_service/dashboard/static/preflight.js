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
      content = table(await request("POST", "/v1/jobs?validate_only=true&deep=true", job, {}, MAX_PREFLIGHT_MS));
    } catch (error) {
      [kind, content] = ["failed", [error.message, ...(error.problem?.errors ?? []).map((e) => `${e.path}: ${e.message}`)].join("\n")];
    }
    if (mine === this.turn) this.show(kind, content);
  }

  show(kind, content) {
    this.place.hidden = false;
    this.place.className = `found ${kind}`;
    this.place.replaceChildren(content);
  }
}

const shape = (sizes) => (sizes.length ? sizes.map((count) => count.toLocaleString("en")).join(" × ") : "1");

function table(report) {
  const cosines = Object.entries(report.fidelity).map(([method, cosine]) => `${method} ${cosine === null ? "diverged" : figure(cosine, 3)}`);
  const rows = [
    ["Result", "No problems found"],
    ["Estimated duration of the job", `about ${duration(report.job_seconds)} on this worker`],
    ["Memory per replica", `at most ${size(report.memory_bytes)}`],
    ["Hyperparameters", Object.entries(report.hyperparameters).map(([name, sizes]) => `${name} (${shape(sizes)})`).join(", ")],
    ["Preflight run", `${report.steps} steps with ${report.method} in ${duration(report.seconds)}, validation loss ${figure(report.validation_loss)}`],
    ["Cosine to the exact hypergradient", cosines.join(", ") || "not measured: the method is exact"],
  ];
  const list = document.createElement("dl");
  for (const [name, text] of rows) {
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.textContent = name;
    value.textContent = text;
    list.append(term, value);
  }
  return list;
}
