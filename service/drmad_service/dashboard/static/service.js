// Requests to the service, and what is told to the reader.

const LONGEST_WAIT_MS = 60_000;

export class Refused extends Error {
  constructor(problem, status) {
    super(problem.detail ?? `the service answered ${status}`);
    this.problem = problem;
    this.status = status;
  }
}

/** Ask the service; `body` is sent as JSON, or as it is when it is a file. */
export async function request(method, path, body, headers = {}, longestWait = LONGEST_WAIT_MS) {
  const signal = AbortSignal.timeout(longestWait);
  const options = { method, signal, headers: { Accept: "application/json", ...headers } };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch {
    throw new Error("The service does not answer");
  }
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    if (response.ok) throw new Error("The service answered something that is not JSON");
  }
  if (response.status === 401 && path !== "/sign-in") location.assign(signIn());
  if (!response.ok) throw new Refused(answer, response.status);
  return answer;
}

export function signIn() {
  return `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
}

export function tell(text, kind = "") {
  const toast = document.createElement("div");
  toast.textContent = text;
  toast.className = kind;
  document.querySelector("#toasts").append(toast);
  setTimeout(() => toast.remove(), kind ? 9000 : 2500);
}

export function complain(error) {
  const fields = error.problem?.errors?.map((e) => `${e.path}: ${e.message}`) ?? [];
  tell([error.message, ...fields].join("; "), "bad");
}
