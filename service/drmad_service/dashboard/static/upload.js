// A data set of the reader's machine: sent under the digest of its bytes, by which jobs name it.
import { request } from "./service.js";

const LONGEST_UPLOAD_MS = 600_000;

/** Returns the name that a job gives it. */
export async function upload(file) {
  if (!crypto.subtle) throw new Error("Without TLS the browser makes no digest; use: drmad data upload FILE");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  const name = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return (await request("PUT", `/v1/data/${name}`, file, {}, LONGEST_UPLOAD_MS)).data;
}

/** The job with these data in the place of its own. */
export function withData(job, data) {
  const problem = job?.problem ?? {};
  const named = problem.entrypoint ? data : { name: "upload", data };
  return { ...job, problem: { ...problem, data: named } };
}
