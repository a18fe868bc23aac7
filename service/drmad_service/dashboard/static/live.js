// Keeps a page current without reloading it: an event stream reports that something changed, the
// service renders the page again, and idiomorph merges its data-live parts into this one.
import { signIn, under } from "./service.js";
import { Idiomorph } from "./vendor/idiomorph.esm.min.js";

const INTERVAL_MS = 1000;
const BUSY_SHARE = 10; // a page rests this many times as long as the last merge took
const FIRST_RETRY_MS = 500;
const MAX_RETRY_MS = 5000;

// The service renders neither what the reader opened nor what the reader ticked.
const OF_THE_READER = { DETAILS: "open", INPUT: "checked" };

const MERGE = {
  callbacks: {
    beforeAttributeUpdated: (name, element) => OF_THE_READER[element.tagName] !== name,
    // A custom element draws its own content and keeps its own attributes, such as data-state.
    beforeNodeMorphed: (old, fresh) => {
      if (!old.localName?.includes("-")) return true;
      for (const { name, value } of fresh.attributes)
        if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      return false;
    },
  },
};

let isHeld = false;
/** Keeps this page as it is, for instance while its job is deleted; false refreshes it again. */
export function hold(isOn) {
  isHeld = isOn;
}

let running = null;
let again = false;

/** Fetches this page and merges its live parts; calls during a fetch cause one more fetch. */
export async function refresh() {
  if (running) {
    again = true;
    return running;
  }
  running = (async () => {
    do {
      again = false;
      const busy = await update();
      await new Promise((resolve) => setTimeout(resolve, Math.max(INTERVAL_MS, BUSY_SHARE * busy)));
    } while (again && !document.hidden);
    running = null;
  })();
  return running;
}

/** Returns the time that the merge took, in milliseconds. */
async function update() {
  if (isHeld) return 0;
  const asked = performance.now();
  let response;
  try {
    response = await fetch(location.href, { headers: { Accept: "text/html" } });
  } catch {
    return 0; // the event stream fails too, reconnects and calls refresh
  }
  if (response.redirected && new URL(response.url).pathname === under("/sign-in")) location.assign(signIn());
  if (!response.ok) return 0;
  const text = await response.text();
  const began = performance.now();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of fresh.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    if (old) Idiomorph.morph(old, part, MERGE);
  }
  document.dispatchEvent(new CustomEvent("drmad:refreshed", { detail: { asked } }));
  return performance.now() - began;
}

/**
 * Follows an event stream while the page is visible.
 *
 * A browser opens at most six connections to a service, so a tab in the background closes its stream.
 */
export class Follower {
  constructor(address, handlers) {
    this.address = address; // a function: the address may name the last event received
    this.handlers = handlers;
    this.pause = FIRST_RETRY_MS;
    this.over = false;
    this.wasLost = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    this.open();
  }

  open() {
    if (this.source || this.over || document.hidden) return;
    this.source = new EventSource(under(this.address()));
    this.source.onopen = () => {
      this.pause = FIRST_RETRY_MS;
      show("on", "live");
      if (this.wasLost) this.handlers.back?.();
      this.wasLost = false;
    };
    this.source.onerror = () => {
      this.close();
      if (this.over) return;
      show("lost", "reconnecting");
      setTimeout(() => this.open(), this.pause);
      this.pause = Math.min(2 * this.pause, MAX_RETRY_MS);
    };
    for (const [type, handle] of Object.entries(this.handlers))
      if (type !== "back") this.source.addEventListener(type, handle);
  }

  close() {
    this.source?.close();
    this.source = null;
    this.wasLost = true;
  }

  /** Closes the stream for good and shows `word`. */
  end(word) {
    this.over = true;
    this.close();
    show("over", word);
  }
}

function show(state, word) {
  const sign = document.querySelector("#live");
  if (!sign) return;
  sign.dataset.state = state;
  if (sign.textContent !== word) sign.textContent = word;
}
