// A form made from a JSON schema. An empty field is not set; its placeholder shows the default.

const plain = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const words = (name) => name.replace(/_s$/, " (s)").replace(/_bytes$/, " (bytes)").replaceAll("_", " ");
const spaced = (title) => title.replace(/(?<=[a-z])[A-Z]/g, " $&").toLowerCase();
const isNull = (schema) => schema.type === "null";

export class Form {
  /**
   * @param onChange called with the whole job after each change
   * @param fixed names of the parts that the form leaves out
   */
  constructor(root, schema, onChange, fixed = []) {
    this.fixed = fixed;
    this.root = root;
    this.schema = schema;
    this.onChange = onChange;
    this.open = new Set(["general", "problem", "hyperparameters"]);
  }

  show(job, findings) {
    this.job = structuredClone(job);
    this.findings = new Map(findings.map((finding) => [finding.path, finding.message]));
    const focused = document.activeElement?.id;
    const { scrollTop } = this.root;
    this.root.replaceChildren(...this.sections());
    this.root.scrollTop = scrollTop;
    if (focused?.startsWith("f.")) document.getElementById(focused)?.focus();
  }

  *sections() {
    const schema = this.resolve(this.schema);
    const parts = Object.entries(schema.properties).filter(([name]) => !this.fixed.includes(name));
    const isSimple = ([, part]) => {
      const { kind } = this.kindOf(part);
      return !["object", "choice", "list"].includes(kind);
    };
    yield this.section("general", "General", "", parts.filter(isSimple));
    for (const part of parts.filter((part) => !isSimple(part))) {
      const { description = "" } = part[1];
      yield this.section(part[0], words(part[0]), description, [part], schema.required);
    }
  }

  section(name, title, help, parts, required = []) {
    const details = element("details");
    const summary = element("summary");
    const heading = element("span");
    heading.textContent = title.charAt(0).toUpperCase() + title.slice(1);
    const note = element("span", "muted");
    explained(note, help);
    summary.append(heading, note);
    details.open = this.open.has(name);
    details.addEventListener("toggle", () => this.open[details.open ? "add" : "delete"](name));
    const body = element("div");
    for (const [field, schema] of parts) {
      const node = this.node(schema, [field], required.includes(field));
      body.append(...(node.classList.contains("group") ? inside(node) : [node]));
    }
    details.append(summary, body);
    return details;
  }

  // The kind of field for a schema

  resolve(schema) {
    if (!schema.$ref) return schema;
    const target = this.schema.$defs[schema.$ref.split("/").at(-1)];
    const { $ref, ...beside } = schema;
    return { ...this.resolve(target), ...beside };
  }

  kindOf(given) {
    let schema = this.resolve(given);
    const variants = schema.oneOf ?? schema.anyOf;
    if (variants) {
      const real = variants.map((variant) => this.resolve(variant)).filter((v) => !isNull(v));
      if (real.length > 1 && real.every((v) => v.properties)) return { kind: "choice", schema, variants: real };
      schema = { ...schema, ...real[0], description: schema.description ?? real[0].description };
      if (real.length > 1) return { kind: "json", schema };
    }
    if (schema.const !== undefined) return { kind: "const", schema };
    if (schema.enum) return { kind: "enum", schema };
    if (schema.properties) return { kind: "object", schema };
    if (schema.type === "object") return { kind: "map", schema, item: this.kindOf(schema.additionalProperties || {}) };
    if (schema.type === "array") {
      const item = this.kindOf(schema.items ?? {});
      return ["object", "choice"].includes(item.kind) ? { kind: "list", schema } : { kind: "scalars", schema, item };
    }
    return { kind: schema.type ?? "json", schema };
  }

  // Values by path

  get(path) {
    return path.reduce((here, part) => here?.[part], this.job);
  }

  set(path, value) {
    let here = this.job;
    path.slice(0, -1).forEach((part, index) => {
      if (here[part] === null || typeof here[part] !== "object") here[part] = Number.isInteger(path[index + 1]) ? [] : {};
      here = here[part];
    });
    if (value === undefined) delete here[path.at(-1)];
    else here[path.at(-1)] = value;
    this.onChange(this.job);
  }

  // Nodes

  node(given, path, required = false) {
    const { kind, schema, variants, item } = this.kindOf(given);
    if (kind === "object") return this.object(schema, path);
    if (kind === "choice") return this.choice(schema, variants, path);
    if (kind === "list") return this.list(schema, path);
    if (kind === "scalars" && item.kind === "enum") return this.checks(schema, item.schema.enum, path);
    return this.field(kind, schema, path, required, item);
  }

  object(schema, path) {
    const group = this.group(words(String(path.at(-1))), path);
    for (const [name, part] of Object.entries(schema.properties))
      if (this.kindOf(part).kind !== "const") group.append(this.node(part, [...path, name], schema.required?.includes(name)));
    return group;
  }

  choice(schema, variants, path) {
    const value = this.get(path);
    const tag = schema.discriminator?.propertyName;
    const nameOf = (variant) => (tag ? variant.properties[tag].const : spaced(variant.title));
    const fits = (variant) => tag ? variant.properties[tag].const === value[tag]
      : Object.keys(value).every((name) => name in variant.properties);
    const standard = plain(schema.default) && tag ? variants.find((v) => nameOf(v) === schema.default[tag]) : undefined;
    const chosen = (plain(value) ? variants.find(fits) : standard) ?? null;
    const group = this.group(words(String(Number.isInteger(path.at(-1)) ? tag : path.at(-1))), path);
    const select = element("select");
    select.id = id([...path, "?"]);
    if (!chosen) select.append(new Option("Select", ""));
    for (const variant of variants) select.append(new Option(nameOf(variant), nameOf(variant), false, variant === chosen));
    select.addEventListener("change", () => {
      const variant = variants.find((variant) => nameOf(variant) === select.value);
      if (variant) this.set(path, tag ? { [tag]: nameOf(variant) } : {});
    });
    group.append(row(select, tag ? words(tag) : "kind", chosen?.description, this.findings.get(tag ? dotted([...path, tag]) : dotted(path))));
    if (chosen) group.append(...inside(this.object(chosen, path)));
    return group;
  }

  list(schema, path) {
    const group = this.group(words(String(path.at(-1))), path);
    const items = this.get(path) ?? [];
    items.forEach((_, index) => {
      const entry = this.node(schema.items, [...path, index]);
      const remove = element("button", "plain");
      remove.type = "button";
      remove.textContent = "Remove";
      remove.setAttribute("aria-label", `Remove ${words(String(path.at(-1)))} ${index + 1}`);
      remove.addEventListener("click", () => this.set(path, items.filter((_, other) => other !== index)));
      entry.append(remove);
      group.append(entry);
    });
    const add = element("button");
    add.type = "button";
    add.id = id([...path, "+"]);
    add.textContent = `Add to ${words(String(path.at(-1)))}`;
    add.addEventListener("click", () => this.set(path, [...items, {}]));
    group.append(add);
    const wrong = this.findings.get(dotted(path));
    if (wrong) group.append(complaint(wrong));
    return group;
  }

  checks(schema, names, path) {
    const group = this.group(words(String(path.at(-1))), path);
    const value = this.get(path);
    const chosen = Array.isArray(value) ? value : [];
    for (const name of names) {
      const input = element("input");
      input.type = "checkbox";
      input.id = id([...path, name]);
      input.checked = chosen.includes(name);
      input.addEventListener("change", () => {
        const left = names.filter((other) => (other === name ? input.checked : chosen.includes(other)));
        this.set(path, left.length ? left : undefined);
      });
      group.append(row(input, words(name)));
    }
    group.append(explained(element("div", "help"), schema.description));
    return group;
  }

  field(kind, schema, path, required, item) {
    const input = this.input(kind, schema, this.get(path), item);
    input.id = id(path);
    if (required) input.required = true;
    input.addEventListener("change", () => this.set(path, this.read(kind, input, item)));
    return row(input, words(String(path.at(-1))), schema.description, this.findings.get(dotted(path)));
  }

  input(kind, schema, value, item) {
    if (kind === "enum" || kind === "boolean") {
      const select = element("select");
      const options = kind === "enum" ? schema.enum : [true, false];
      const standard = schema.default === undefined || schema.default === null ? "" : word(schema.default);
      select.append(new Option(standard ? `${standard} (default)` : "not set", ""));
      for (const option of options)
        select.append(new Option(word(option), word(option), false, option === value));
      return select;
    }
    if (kind === "map") {
      const area = element("textarea");
      area.rows = 2;
      area.placeholder = item.variants ? `name: {"${Object.keys(item.variants[0].properties)[0]}": value, ...}, one per line` : "name: value, one per line";
      area.value = Object.entries(value ?? {}).map(([name, inner]) => `${name}: ${typeof inner === "string" ? inner : JSON.stringify(inner)}`).join("\n");
      return area;
    }
    const input = element("input");
    input.type = kind === "integer" || kind === "number" ? "number" : "text";
    if (input.type === "number") input.step = kind === "integer" ? 1 : "any";
    if (schema.default !== undefined && schema.default !== null) input.placeholder = written(schema.default);
    else if (schema.default === null) input.placeholder = "not set";
    // A list in a field that takes a word or a list is read as JSON, and must be written as such.
    const shown = kind === "json" && typeof value !== "string" ? JSON.stringify : written;
    if (value !== undefined && value !== null) input.value = shown(value);
    return input;
  }

  read(kind, input, item) {
    const text = input.value.trim();
    if (text === "") return undefined;
    if (kind === "number" || kind === "integer") return Number(text);
    if (kind === "boolean") return text === "yes";
    if (kind === "scalars") {
      const parts = text.split(/[\s,]+/).filter(Boolean);
      return ["number", "integer"].includes(item.kind) ? parts.map((part) => (isNaN(part) ? part : Number(part))) : parts;
    }
    if (kind === "map")
      return Object.fromEntries(text.split("\n").filter((line) => line.trim()).map((line) => {
        const cut = line.indexOf(":") < 0 ? line.length : line.indexOf(":");
        const inner = line.slice(cut + 1).trim();
        return [line.slice(0, cut).trim(), item.kind === "string" ? inner : parsed(inner)];
      }));
    if (kind === "json") return parsed(text);
    return input.value;
  }

  group(title, path) {
    const group = element("div", "group");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", Number.isInteger(path.at(-1)) ? `${title} ${path.at(-1) + 1}` : title);
    const legend = element("div", "legend");
    legend.textContent = title;
    group.append(legend);
    return group;
  }
}

const element = (name, kind = "") => Object.assign(document.createElement(name), { className: kind });
const inside = (group) => [...group.children].filter((child) => !child.classList.contains("legend"));
const id = (path) => `f.${path.join(".")}`;
const dotted = (path) => path.reduce((text, part) => (Number.isInteger(part) ? `${text}[${part}]` : text ? `${text}.${part}` : part), "");
const word = (value) => (value === true ? "yes" : value === false ? "no" : String(value));
const written = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function complaint(message) {
  const wrong = element("div", "wrong");
  wrong.textContent = message;
  return wrong;
}

/** A help text, whose names in backticks are code. */
function explained(note, help) {
  note.replaceChildren(...help.split("`").map((part, index) => (index % 2 ? Object.assign(element("code"), { textContent: part }) : part)));
  return note;
}

function row(input, name, help, wrong) {
  const field = element("div", "field");
  const label = element("label");
  label.htmlFor = input.id;
  label.textContent = name;
  field.append(label, input);
  if (wrong) {
    const line = complaint(wrong);
    line.id = `${input.id}!`;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", line.id);
    field.append(line);
  }
  if (help) field.append(explained(element("div", "help"), help));
  return field;
}
