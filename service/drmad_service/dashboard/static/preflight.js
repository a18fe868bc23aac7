// Has a worker try a job that is not submitted, and shows what it found.
import { duration, figure, size } from "./numbers.js";
import { request } from "./service.js";

const LONGEST_CHECK_MS = 300_000; // the service says so itself when no worker comes

export class Preflight {
  /** @param place where what was found is shown */
  constructor(place) {
    this.place = place;
    this.turn = 0;
  }

  /** What was found belongs to a job that has changed since. */
  forget() {
    this.turn += 1;
    this.place.hidden = true;
  }

  async run(job) {
    const mine = ++this.turn;
    this.show("wait", "A worker trains a few steps of this job …");
    let kind = "good", content;
    try {
      content = table(await request("POST", "/v1/jobs?validate_only=true&deep=true", job, {}, LONGEST_CHECK_MS));
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

function table(found) {
  const cosines = Object.entries(found.fidelity).map(([method, cosine]) => `${method} ${cosine === null ? "diverged" : figure(cosine, 3)}`);
  const rows = [
    ["The whole job", `about ${duration(found.job_seconds)} on a worker like that one`],
    ["Memory of a replica", `at most ${size(found.memory_bytes)}`],
    ["Tuned", Object.entries(found.hyperparameters).map(([name, sizes]) => `${name} (${shape(sizes)})`).join(", ")],
    ["Tried", `${found.steps} steps by ${found.method} in ${duration(found.seconds)}, validation loss ${figure(found.validation_loss)}`],
    ["Cosine to the exact", cosines.join(", ") || "not measured: the method is exact"],
  ];
  const list = document.createElement("dl");
  for (const [name, text] of rows) {
    const term = document.createElement("dt");
    const told = document.createElement("dd");
    term.textContent = name;
    told.textContent = text;
    list.append(term, told);
  }
  return list;
}
