// Takes a folder or a zip archive of code, uploads it, and says which of its functions builds the problem.
import { entrypoints, packed, selected, unpacked } from "./code_archive.js";
import { size } from "./numbers.js";
import { uploadCode } from "./upload.js";

const MAX_BYTES = 50 * 2 ** 20;
const LISTED = 6; // of the names that are left out

const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());

async function filesOfEntry(entry, below, never, found) {
  const name = below ? `${below}/${entry.name}` : entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.set(name, await bytesOf(file));
    return;
  }
  if (never(`${name}/`)) return; // version control and environments hold many files
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return;
    for (const inner of part) await filesOfEntry(inner, name, never, found);
  }
}

/** The files of what was dropped, or null if it is neither a folder nor a zip archive. */
export async function dropped(transfer, never) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const [folder] = entries.filter((entry) => entry.isDirectory);
  if (folder) {
    const found = new Map();
    await filesOfEntry(folder, "", never, found);
    return new Map([...found].map(([name, content]) => [name.slice(folder.name.length + 1), content]));
  }
  const [archive] = [...transfer.files].filter(({ name }) => name.toLowerCase().endsWith(".zip"));
  return archive ? unpacked(await bytesOf(archive)) : null;
}

/** The files that an input has chosen: a folder, or one zip archive. */
export async function chosen(input, never) {
  const files = [...input.files];
  if (!input.webkitdirectory) return unpacked(await bytesOf(files[0]));
  const inside = ({ webkitRelativePath }) => webkitRelativePath.split("/").slice(1).join("/");
  const kept = files.filter((file) => !never(inside(file)));
  return new Map(await Promise.all(kept.map(async (file) => [inside(file), await bytesOf(file)])));
}

/** Uploads files as an archive of code; returns its name, its entry points and a sentence on it. */
export async function uploaded(files, patterns) {
  const { taken, leftOut } = selected(files, patterns);
  if (![...taken.keys()].some((name) => name.endsWith(".py"))) throw new Error("Expected a folder or a zip archive with Python files, and found none in it.");
  const archive = await packed(taken);
  if (archive.length > MAX_BYTES) throw new Error(`The code must have at most ${size(MAX_BYTES)} when it is packed, it has ${size(archive.length)}: name what is not code in .drmadignore.`);
  const code = await uploadCode(new Blob([archive]));
  const more = leftOut.length > LISTED ? ` and ${leftOut.length - LISTED} more` : "";
  const without = leftOut.length ? ` Left out: ${leftOut.slice(0, LISTED).join(", ")}${more}.` : "";
  return { code, entrypoints: entrypoints(taken), said: `Uploaded ${taken.size} files of code, ${size(archive.length)} packed.${without}` };
}

/** The job with this code as its problem; options and requirements of earlier code stay. */
export function withCode(job, code, found) {
  const problem = job?.problem ?? {};
  const { model, data, weights, kind, ...kept } = problem;
  const beside = problem.entrypoint ? problem : typeof data === "string" ? { ...kept, data } : kept;
  const entrypoint = found.includes(problem.entrypoint) ? problem.entrypoint : (found[0] ?? "module:function");
  return { ...job, problem: { ...beside, entrypoint, code } };
}
