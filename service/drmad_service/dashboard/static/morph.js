// Makes one tree like another with the fewest changes: what stays the same keeps its focus, its
// scroll position and what was ticked in it.

const OWN = { DETAILS: ["open"], DIALOG: ["open"] }; // the reader opens these, not the service

export function morph(old, fresh) {
  const isCustom = old.tagName.includes("-"); // these draw themselves, and say how it went
  for (const { name } of isCustom ? [] : [...old.attributes])
    if (!fresh.hasAttribute(name) && !OWN[old.tagName]?.includes(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (!isCustom) morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    let match = wanted.id ? known.get(wanted.id) : place;
    if (wanted.id && match && match !== place) old.insertBefore(match, place);
    if (!match || !alike(match, wanted)) {
      old.insertBefore(document.importNode(wanted, true), place);
      continue;
    }
    place = match.nextSibling;
    if (wanted.nodeType === Node.ELEMENT_NODE) morph(match, wanted);
    else if (match.data !== wanted.data) match.data = wanted.data;
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function alike(one, other) {
  return one.nodeName === other.nodeName && (one.id ?? "") === (other.id ?? "");
}
