// Uploads a data set under the digest of its bytes; jobs refer to it by that digest.
import { request } from "./service.js";

const MAX_UPLOAD_MS = 600_000;

/** Returns the digest that a job refers to. */
export async function upload(file) {
  if (!crypto.subtle) throw new Error("The browser computes digests only over HTTPS or on localhost. Upload the file with: drmad data upload FILE");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  const name = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return (await request("PUT", `/v1/data/${name}`, file, {}, MAX_UPLOAD_MS)).data;
}

/** Returns the job with the upload `data` as its data set; a table keeps the columns that were named. */
export function withData(job, data, isTable) {
  const problem = job?.problem ?? {};
  const beside = isTable && problem.data?.name === "table" ? problem.data : { target: "" };
  const set = isTable ? { ...beside, name: "table", data } : { name: "upload", data };
  const named = problem.entrypoint ? data : set;
  return { ...job, problem: { ...problem, data: named } };
}
