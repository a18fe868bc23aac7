// Zip archives of a user's code: read, and written without what is no code. The service checks them again.

const EPOCH_DATE = 0x21; // 1980-01-01, the earliest day that the format can state
const LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END = 0x06054b50;
const UTF8 = 0x800, DEFLATED = 8;
const IGNORE_FILES = [".gitignore", ".drmadignore"];

const encoder = new TextEncoder();
const decoder = new TextDecoder();

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

const TABLE = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});
function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function record(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let place = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(place, value, true);
    else view.setUint32(place, value, true);
    place += size;
  }
  return new Uint8Array(view.buffer);
}

/** The zip archive of files by name, as bytes; the same files give the same bytes in one browser. */
export async function packed(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const name of [...files.keys()].sort()) {
    const content = files.get(name);
    const title = encoder.encode(name);
    const deflated = await through(content, new CompressionStream("deflate-raw"));
    const shared = [[2, UTF8], [2, DEFLATED], [2, 0], [2, EPOCH_DATE], [4, checksum(content)], [4, deflated.length], [4, content.length], [2, title.length], [2, 0]];
    const head = record([[4, LOCAL], [2, 20], ...shared]);
    const entry = record([[4, CENTRAL], [2, (3 << 8) | 20], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, (0o100644 << 16) >>> 0], [4, offset]]);
    parts.push(head, title, deflated);
    directory.push(entry, title);
    offset += head.length + title.length + deflated.length;
  }
  const size = directory.reduce((sum, { length }) => sum + length, 0);
  const end = record([[4, END], [2, 0], [2, 0], [2, files.size], [2, files.size], [4, size], [4, offset], [2, 0]]);
  return new Uint8Array(await new Blob([...parts, ...directory, end]).arrayBuffer());
}

/** The files of a zip archive by name; a single folder that holds all of them is left away. */
export async function unpacked(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("Expected a zip archive or a folder: the file has no directory of a zip archive.");
  const files = new Map();
  let place = view.getUint32(end + 16, true);
  for (let count = view.getUint16(end + 10, true); count > 0; count -= 1) {
    if (place + 46 > bytes.length || view.getUint32(place, true) !== CENTRAL) throw new Error("The zip archive is damaged: pack it again.");
    const [method, size, start] = [view.getUint16(place + 10, true), view.getUint32(place + 20, true), view.getUint32(place + 42, true)];
    const [named, extra, comment] = [28, 30, 32].map((at) => view.getUint16(place + at, true));
    const name = decoder.decode(bytes.subarray(place + 46, place + 46 + named));
    place += 46 + named + extra + comment;
    if (name.endsWith("/")) continue;
    if (method !== 0 && method !== DEFLATED) throw new Error(`${name} is encrypted or compressed in a way that is not supported: pack the archive with deflate.`);
    const from = start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const content = bytes.subarray(from, from + size);
    files.set(name, method ? await through(content, new DecompressionStream("deflate-raw")) : content);
  }
  return withoutTop(files);
}

function withoutTop(files) {
  const names = [...files.keys()].filter((name) => !name.startsWith("__MACOSX/"));
  const top = `${names[0]?.split("/")[0]}/`;
  const isWhole = names.length > 0 && names.every((name) => name.startsWith(top));
  return new Map(names.map((name) => [isWhole ? name.slice(top.length) : name, files.get(name)]));
}

function expression(pattern) {
  const isAnchored = pattern.replace(/\/$/, "").includes("/");
  const text = pattern.replace(/^\//, "").replace(/\/$/, "")
    .replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*\*\//g, "\u0001").replace(/\*\*/g, "\u0002")
    .replace(/\*/g, "[^/]*").replace(/\?/g, "[^/]").replace(/\u0001/g, "(?:.*/)?").replace(/\u0002/g, ".*");
  return new RegExp(`^${isAnchored ? "" : "(?:.*/)?"}${text}${pattern.endsWith("/") ? "/" : "(?:/|$)"}`);
}

/** Says whether a path is left out, by lines as .gitignore has them; the last line that matches counts. */
export function ignoring(lines) {
  const rules = lines.map((line) => line.trim()).filter((line) => line && !line.startsWith("#"))
    .map((line) => ({ keeps: line.startsWith("!"), pattern: expression(line.replace(/^!/, "")) }));
  return (path) => rules.reduce((isOut, { keeps, pattern }) => (pattern.test(path) ? !keeps : isOut), false);
}

/**
 * The files that are code, and the names of those that are left out.
 *
 * @param never the patterns that the command line leaves out too; .gitignore and .drmadignore of the
 *   folder add to them
 */
export function selected(files, never) {
  const own = IGNORE_FILES.flatMap((name) => (files.has(name) ? decoder.decode(files.get(name)).split("\n") : []));
  const isOut = ignoring([...never, ...own]);
  const taken = new Map([...files].filter(([name]) => !isOut(name)));
  return { taken, leftOut: [...files.keys()].filter((name) => !taken.has(name)).sort() };
}

/** Functions that may build the problem, as module:function: those that return a Problem, then any called build. */
export function entrypoints(files) {
  const sure = [], likely = [];
  for (const [name, content] of [...files].sort()) {
    if (!name.endsWith(".py")) continue;
    const module = name.slice(0, -3).replace(/\/__init__$/, "").replaceAll("/", ".");
    for (const [, found, returned] of decoder.decode(content).matchAll(/^def\s+(\w+)\s*\([^)]*\)\s*(?:->\s*([^:]+))?:/gm)) {
      if (/\bProblem\b/.test(returned ?? "")) sure.push(`${module}:${found}`);
      else if (/^(build|problem|make_problem)/.test(found)) likely.push(`${module}:${found}`);
    }
  }
  return [...sure, ...likely];
}
