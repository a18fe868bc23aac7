// Sends requests to the service and shows notifications.

// A proxy may offer the service below a path, which precedes that of every file.
const ROOT = new URL(import.meta.url).pathname.split("/static/")[0];

/** The address of a path of the service, such as /v1/jobs. */
export function under(path) {
  return ROOT + path;
}

const DEFAULT_TIMEOUT_MS = 60_000;

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `The service responded with status ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

/** Sends a request; a `body` that is a file is sent unchanged, any other as JSON. */
export async function request(method, path, body, headers = {}, timeoutMs = DEFAULT_TIMEOUT_MS) {
  const signal = AbortSignal.timeout(timeoutMs);
  const options = { method, signal, headers: { Accept: "application/json", ...headers } };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(under(path), options);
    text = await response.text();
  } catch {
    throw new Error("The service does not respond. Check that it is running.");
  }
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    if (response.ok) throw new Error("The service sent a response that is not JSON.");
  }
  if (response.status === 401 && path !== "/sign-in") location.assign(signIn());
  if (!response.ok) throw new Refused(answer, response.status);
  return answer;
}

export function signIn() {
  return under(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}

export function notify(text, kind = "") {
  const toast = document.createElement("div");
  toast.textContent = text;
  toast.className = kind;
  document.querySelector("#toasts").append(toast);
  setTimeout(() => toast.remove(), kind ? 9000 : 2500);
}

export function complain(error) {
  const fields = error.problem?.errors?.map((e) => `${e.path}: ${e.message}`) ?? [];
  notify([error.message, ...fields].join("; "), "bad");
}
