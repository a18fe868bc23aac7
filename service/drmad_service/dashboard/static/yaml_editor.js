// <yaml-editor> edits the YAML of a textarea with CodeMirror: highlighting, line numbers, completion and
// help from the schema of a job, marks at the lines of errors. The textarea keeps the text.
import {
  autocompletion, bracketMatching, completionKeymap, defaultKeymap, drawSelection, EditorState, EditorView,
  highlightActiveLine, highlightActiveLineGutter, HighlightStyle, history, historyKeymap, hoverTooltip, indentOnInput,
  indentLess, indentMore, isolateHistory, keymap, lineNumbers, lintGutter, search, searchKeymap, setDiagnostics,
  syntaxHighlighting, tags, undo, undoDepth, yaml,
} from "./vendor/codemirror.min.js";
import { kindOf, placeIn } from "./yaml_schema.js";

const COLOURS = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)" },
  { tag: [tags.content, tags.string, tags.special(tags.string)], color: "var(--green)" },
  { tag: [tags.comment, tags.lineComment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.number, tags.bool, tags.null, tags.keyword], color: "var(--violet)" },
  { tag: [tags.separator, tags.punctuation, tags.squareBracket, tags.brace], color: "var(--muted)" },
]);

const THEME = EditorView.theme({
  "&": { height: "100%", color: "var(--text)", backgroundColor: "transparent" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  ".cm-scroller": { font: "13px/1.6 var(--mono)", overflow: "auto" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--muted)", border: "0" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--grey-soft)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--accent-soft)" },
  ".cm-tooltip": { backgroundColor: "var(--surface)", color: "var(--text)", border: "1px solid var(--line-strong)", borderRadius: "8px", maxWidth: "440px", overflow: "hidden" },
  ".cm-tooltip-autocomplete > ul": { font: "12.5px/1.5 var(--mono)" },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--on-accent)" },
  ".cm-completionDetail": { color: "var(--muted)", fontStyle: "normal" },
  "li[aria-selected] .cm-completionDetail": { color: "inherit" },
  ".cm-completionMatchedText": { textDecoration: "none", fontWeight: "700" },
  ".cm-completionInfo, .help": { padding: "8px 12px", font: "12.5px/1.5 Inter, sans-serif" },
  ".help b": { fontFamily: "var(--mono)" },
  ".help p": { margin: "4px 0 0" },
  ".cm-diagnostic": { font: "12.5px/1.5 Inter, sans-serif" },
  ".cm-panels": { backgroundColor: "var(--surface)", color: "var(--text)" },
  ".cm-panels button, .cm-panels input": { backgroundImage: "none", backgroundColor: "var(--surface)", color: "var(--text)", border: "1px solid var(--line-strong)", borderRadius: "6px" },
});

class YamlEditor extends HTMLElement {
  /**
   * Takes the place of a textarea.
   *
   * @param schema answers questions on the places of a job, see JobSchema
   * @param jobOf returns the last job that the text described
   */
  edit(textarea, schema, jobOf) {
    this.textarea = textarea;
    this.schema = schema;
    this.jobOf = jobOf;
    // The policy forbids style elements; in a shadow tree CodeMirror uses constructed style sheets.
    const root = this.attachShadow({ mode: "open" });
    const place = root.appendChild(document.createElement("div"));
    place.style.height = "100%";
    this.view = new EditorView({ root, parent: place, state: this.state(textarea.value) });
    textarea.hidden = true;
  }

  state(doc) {
    const label = { "aria-label": this.getAttribute("label"), spellcheck: "false" };
    return EditorState.create({
      doc,
      extensions: [
        lineNumbers(), lintGutter(), highlightActiveLine(), highlightActiveLineGutter(), drawSelection(), history(),
        indentOnInput(), bracketMatching(), search({ top: true }), yaml(), syntaxHighlighting(COLOURS), THEME,
        autocompletion({ override: [(context) => this.completions(context)], icons: false }),
        hoverTooltip((view, offset) => this.help(offset)),
        EditorView.contentAttributes.of(label),
        EditorView.domEventObservers({ keydown: ({ key }) => this.observe(key) }),
        EditorView.updateListener.of((update) => update.docChanged && this.changed(update)),
        keymap.of([...completionKeymap, ...searchKeymap, ...historyKeymap, ...defaultKeymap, { key: "Tab", run: (view) => !this.leaves && indentMore(view), shift: (view) => !this.leaves && indentLess(view) }]),
        EditorState.tabSize.of(2), EditorView.lineWrapping,
      ],
    });
  }

  /** Tab indents; Escape, then Tab leaves the editor, also after the two seconds of CodeMirror. */
  observe(key) {
    if (key === "Escape") this.leaves = true;
    else if (!["Tab", "Shift"].includes(key)) this.leaves = false;
  }

  get value() {
    return this.view.state.doc.toString();
  }

  /** Replaces the text in one step, which undo takes back. */
  set value(text) {
    if (text === this.value) return;
    const { doc } = this.view.state;
    this.isReplacing = true;
    this.view.dispatch({ changes: { from: 0, to: doc.length, insert: text }, annotations: isolateHistory.of("full") });
    this.isReplacing = false;
  }

  changed() {
    this.textarea.value = this.value;
    if (!this.isReplacing) this.dispatchEvent(new Event("typed"));
  }

  get canUndo() {
    return undoDepth(this.view.state) > 0;
  }
  undo() {
    this.isReplacing = true;
    undo(this.view);
    this.isReplacing = false;
  }

  /** Selects a line; without one, only takes the focus. */
  goTo(line) {
    const { doc } = this.view.state;
    this.view.focus();
    if (!line) return;
    const { from, to } = doc.line(Math.min(line, doc.lines));
    this.view.dispatch({ selection: { anchor: from, head: to }, effects: EditorView.scrollIntoView(from, { y: "center" }) });
  }

  /** Marks the lines of the findings that name one. */
  mark(findings) {
    const { doc } = this.view.state;
    const found = findings.filter(({ line }) => line).map(({ line, path, message }) => {
      const { from, to, text } = doc.line(Math.min(line, doc.lines));
      return { from: from + text.length - text.trimStart().length, to, severity: "error", message: path ? `${path}: ${message}` : message };
    });
    this.view.dispatch(setDiagnostics(this.view.state, found));
  }

  completions({ state, pos, explicit }) {
    const { path, key, word } = placeIn(state.doc.toString(), pos);
    if (!word && !explicit) return null;
    const job = this.jobOf() ?? {};
    const from = pos - word.length;
    if (key !== null) {
      const options = this.schema.values(path, key, job).map((label) => ({ label, type: "enum" }));
      return options.length ? { from, options, validFor: /^[\w.-]*$/ } : null;
    }
    const options = [...this.schema.keys(path, job)].map(([label, schema]) => {
      const [known] = this.schema.alternatives(schema);
      return { label, apply: `${label}: `, detail: kindOf(known), info: schema.description ?? known.description, type: "property" };
    });
    return options.length ? { from, options, validFor: /^\w*$/ } : null;
  }

  /** What the schema says of the key or value under the pointer. */
  help(offset) {
    const line = this.view.state.doc.lineAt(offset);
    const word = this.view.state.wordAt(offset);
    if (!word || /(^|\s)#/.test(line.text.slice(0, offset - line.from))) return null;
    const { path, key } = placeIn(this.value, word.to);
    const name = key ?? this.value.slice(word.from, word.to);
    const job = this.jobOf() ?? {};
    const [schema] = this.schema.at([...path, name], job);
    if (!schema) return null;
    const [parent] = this.schema.at(path, job);
    const isKind = schema.const !== undefined; // the description of a kind is that of its mapping
    const shown = isKind ? { enum: this.schema.values(path, name, job), description: schema.description ?? parent.description } : schema;
    return { pos: word.from, end: word.to, above: true, create: () => ({ dom: helpOn([...path, name], shown) }) };
  }
}
customElements.define("yaml-editor", YamlEditor);

function helpOn(path, schema) {
  const dom = Object.assign(document.createElement("div"), { className: "help" });
  const title = document.createElement("b");
  title.textContent = path.reduce((text, name) => (typeof name === "number" ? `${text}[${name}]` : text ? `${text}.${name}` : name), "");
  dom.append(title, ` ${kindOf(schema)}`);
  if (schema.description) dom.append(Object.assign(document.createElement("p"), { textContent: schema.description }));
  if (schema.default !== undefined && typeof schema.default !== "object")
    dom.append(Object.assign(document.createElement("p"), { textContent: `Default: ${schema.default}` }));
  return dom;
}
