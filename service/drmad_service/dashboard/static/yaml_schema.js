// Where a place of a YAML text lies in a job, and what the job's JSON schema says of it.

const isBlank = (line) => /^\s*(#.*)?$/.test(line);
const KEY = /^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s\[\]{},#&*!|>'"%@`:][^:#]*?)\s*:(?=\s|$)/;
const unquoted = (text) => text.trim().replace(/^(["'])(.*)\1$/, "$2");

/**
 * The place of an offset in a YAML text, which may be unfinished.
 *
 * @returns {{path: (string|number)[], key: string|null, word: string}} the path of the enclosing
 *   mapping or list, the key whose value stands there (null where a key stands), and what is typed
 *   before the offset.
 */
export function placeIn(text, offset) {
  const lines = text.slice(0, offset).split("\n");
  const last = lines.pop();
  const stack = []; // the enclosing blocks: their indentation, and the key or index that is open
  let flow = [];
  for (const line of lines) {
    if (flow.length) flow = scanned(line, flow);
    else if (!isBlank(line)) flow = block(line, stack).flow;
  }
  if (flow.length) return inFlow(paths(stack), scanned(last, flow));
  const { rest, indent, flow: opened } = block(last, stack, true);
  if (opened.length) return inFlow(paths(stack), opened);
  const match = KEY.exec(rest);
  if (match && rest.length > match[0].length) {
    const path = paths(stack);
    return { path: path.slice(0, -1), key: path.at(-1), word: rest.slice(match[0].length).trimStart() };
  }
  leave(stack, indent);
  return { path: paths(stack), key: null, word: rest };
}

const paths = (stack) => stack.map(({ name }) => name);

/** Ends the blocks that a key of this indentation does not lie in. */
function leave(stack, indent) {
  while (stack.at(-1)?.indent >= indent) stack.pop();
}

/** Reads one line of block style into the stack; returns what follows its dashes and the flow it opens. */
function block(line, stack, isLast = false) {
  let indent = line.length - line.trimStart().length;
  let rest = line.slice(indent);
  while (/^-(\s|$)/.test(rest)) {
    while (stack.at(-1)?.indent > indent) stack.pop(); // a list may stand below its key without indentation
    if (stack.at(-1)?.kind === "item" && stack.at(-1).indent === indent) stack.at(-1).name += 1;
    else stack.push({ kind: "item", indent, name: 0 });
    const after = rest.slice(1);
    rest = after.trimStart();
    indent += 1 + after.length - rest.length;
  }
  const match = KEY.exec(rest);
  if (!match) return { rest, indent, flow: /^[\[{]/.test(rest) ? scanned(rest, []) : [] };
  leave(stack, indent);
  const value = rest.slice(match[0].length);
  if (!isLast || value) stack.push({ kind: "key", indent, name: unquoted(match[1]) });
  return { rest, indent, flow: /^\s*[\[{]/.test(value) ? scanned(value, []) : [] };
}

/** The open collections of flow style behind a piece of text. */
function scanned(text, open) {
  const flow = open.map((each) => ({ ...each }));
  let quote = null;
  for (const letter of text) {
    const here = flow.at(-1);
    if (quote) {
      if (letter === quote) quote = null;
      if (here) here.word += letter;
    } else if (letter === '"' || letter === "'") {
      quote = letter;
      if (here) here.word += letter;
    } else if (letter === "#" && (!here || /(^|\s)$/.test(here.word))) break;
    else if (letter === "{" || letter === "[") flow.push({ kind: letter, key: null, index: 0, word: "" });
    else if (letter === "}" || letter === "]") {
      flow.pop();
      if (!flow.length) return flow;
    } else if (!here) continue;
    else if (letter === ",") Object.assign(here, { key: null, index: here.index + 1, word: "" });
    else if (letter === ":" && here.kind === "{") Object.assign(here, { key: unquoted(here.word), word: "" });
    else here.word += letter;
  }
  return flow;
}

function inFlow(path, flow) {
  const outer = flow.slice(0, -1).map(({ kind, key, index }) => (kind === "{" ? key : index));
  const { kind, key, index, word } = flow.at(-1);
  const inside = [...path, ...outer];
  if (kind === "[") return { path: inside, key: index, word: word.trimStart() };
  return { path: inside, key, word: word.trimStart() };
}

/** Answers questions on the places of a job from its JSON schema. */
export class JobSchema {
  constructor(schema) {
    this.schema = schema;
  }

  /** The alternatives of a schema without its references, those of unions included. */
  alternatives(schema) {
    const { $ref, oneOf, anyOf, ...beside } = schema;
    if ($ref) return this.alternatives({ ...this.schema.$defs[$ref.split("/").at(-1)], ...beside });
    const union = oneOf ?? anyOf;
    if (!union) return [beside];
    return union.flatMap((each) => this.alternatives(each)).map((each) => ({ ...each, description: beside.description ?? each.description }));
  }

  /** The alternatives at a path that suit the job, which decides between kinds where it names one. */
  at(path, job, narrows = true) {
    let [found, value] = [this.alternatives(this.schema), job];
    for (const [place, name] of path.entries()) {
      found = found.flatMap((each) => this.alternatives(this.child(each, name) ?? {})).filter((each) => Object.keys(each).length);
      value = value?.[name];
      if (narrows || place < path.length - 1) found = suiting(found, value);
    }
    return found;
  }

  child(schema, name) {
    if (typeof name === "number") return schema.items ?? null;
    if (schema.properties?.[name]) return schema.properties[name];
    return typeof schema.additionalProperties === "object" ? schema.additionalProperties : null;
  }

  /** The keys that a mapping may have, each with its schema; those that it has are left out. */
  keys(path, job) {
    const has = path.reduce((value, name) => value?.[name], job) ?? {};
    const found = new Map();
    for (const each of this.at(path, job))
      for (const [name, schema] of Object.entries(each.properties ?? {})) if (!(name in has) && !found.has(name)) found.set(name, schema);
    return found;
  }

  /** The values that a key may have, as YAML. */
  values(path, key, job) {
    const isKind = this.at(path, job).some((each) => this.child(each, key)?.const !== undefined);
    const parents = this.at(path, job, !isKind); // another kind than that of the job may be chosen
    const named = parents.map((each) => this.child(each, key)).filter(Boolean).flatMap((each) => this.alternatives(each));
    const found = named.flatMap(({ const: only, enum: several, type }) =>
      several ?? (only !== undefined ? [only] : type === "boolean" ? [true, false] : type === "null" ? [null] : []));
    return [...new Set(found.map((value) => (value === null ? "null" : String(value))))];
  }
}

/** Of the alternatives of a union those whose fixed fields have the values of `value`. */
function suiting(alternatives, value) {
  if (alternatives.length < 2 || value === null || typeof value !== "object") return alternatives;
  const isSuiting = ({ properties = {} }) =>
    Object.entries(properties).every(([name, { const: only }]) => only === undefined || value[name] === undefined || value[name] === only)
    && Object.keys(value).filter((name) => name in properties).length > 0;
  const found = alternatives.filter(isSuiting);
  return found.length ? found : alternatives;
}

/** What kind of value a schema asks for, its limits and its default, in words. */
export function kindOf(schema) {
  const { const: only, enum: several, type, minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const limits = [
    minimum !== undefined ? `at least ${minimum}` : "", exclusiveMinimum !== undefined ? `above ${exclusiveMinimum}` : "",
    maximum !== undefined ? `at most ${maximum}` : "", exclusiveMaximum !== undefined ? `below ${exclusiveMaximum}` : "",
  ].filter(Boolean);
  const kind = only !== undefined ? String(only) : several ? several.map(String).join(" | ") : { object: "mapping", array: "list" }[type] ?? type ?? "";
  return [kind, ...limits].filter(Boolean).join(", ");
}
