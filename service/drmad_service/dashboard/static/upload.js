// Uploads data and code under the digest of their bytes, by which jobs refer to them.
import { request } from "./service.js";

const MAX_UPLOAD_MS = 600_000;

async function digestOf(file, command) {
  if (!crypto.subtle) throw new Error(`The browser computes digests only over HTTPS or on localhost. Use the command line: ${command}`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Uploads a data set; returns the digest that a job refers to. */
export async function upload(file) {
  const name = await digestOf(file, "drmad data upload FILE");
  return (await request("PUT", `/v1/data/${name}`, file, {}, MAX_UPLOAD_MS)).data;
}

/** Uploads an archive of code; returns the digest that a job refers to. */
export async function uploadCode(archive) {
  const name = await digestOf(archive, "drmad submit job.yaml --code FOLDER");
  return (await request("PUT", `/v1/code/${name}`, archive, { "Content-Type": "application/zip" }, MAX_UPLOAD_MS)).code;
}

/** Returns the job with the upload `data` as its data set; a table keeps the columns that were named. */
export function withData(job, data, isTable) {
  const problem = job?.problem ?? {};
  const beside = isTable && problem.data?.name === "table" ? problem.data : { target: "" };
  const set = isTable ? { ...beside, name: "table", data } : { name: "upload", data };
  const named = problem.entrypoint ? data : set;
  return { ...job, problem: { ...problem, data: named } };
}
